"""Exporting a fusion of logits: a file that names its models and their weights."""

from __future__ import annotations

import os
from pathlib import Path

from evomerge.checkpoint.files import staged_folder
from evomerge.export.lineage import MANIFEST, Lineage
from evomerge.export.manifest import manifest
from evomerge.recipe.logit_fusion import FILE, FusionFile

_CARD = """\
# {name}

A fusion of logits found by evomerge: a large model, moved token by token by small ones. No weights
were merged, so there is no checkpoint to load; `{file}` names the models and their weights, by
paths that start at this folder. Where they are:

    evomerge answer {name} "a prompt"

`{manifest}` says what was measured, and digests of the models that it was measured on.
"""


def write_fusion(fusion: FusionFile, lineage: Lineage, target: Path) -> Path:
    """Write a folder with the fusion, a page about it and a manifest.

    Args:
        target: must not exist.

    Returns:
        The target.
    """
    large = fusion.fusion.large
    paths = (*([large] if large else ()), fusion.base, *fusion.models.values())
    # Relative, as far as that goes: a published folder says little of the machine.
    spoken = {path: os.path.relpath(path.resolve(), target.resolve()) for path in paths}
    with staged_folder(target) as folder:
        (folder / FILE).write_text(fusion.text(spoken), "utf-8")
        text = _CARD.format(name=lineage.name, file=FILE, manifest=MANIFEST)
        (folder / "README.md").write_text(text, "utf-8")
        (folder / MANIFEST).write_bytes(manifest(folder, lineage.to_json()))
    return target
