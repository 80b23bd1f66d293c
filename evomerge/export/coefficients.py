"""Exporting a merge whose weights lie elsewhere: its recipe, for whoever has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoint.files import staged_folder
from evomerge.checkpoint.models import open_model
from evomerge.export.lineage import MANIFEST, Lineage
from evomerge.export.manifest import manifest
from evomerge.recipe.outline_checks import is_remote

RECIPE = "recipe.yaml"

_CARD = """\
# {name}

A merge found by evomerge by its answers alone: the weights were never here. Where they are,
put the folders of the base and the models beside `{recipe}` under the names that it has, or write
their paths into it, and:

    evomerge merge {recipe} {name}

`{manifest}` says what was measured, and digests of the models that it was measured on.
"""


def is_elsewhere(base: Path) -> bool:
    """Whether a campaign's base is an outline."""
    with open_model(base) as model:
        return is_remote(model)


def write_coefficients(merge: Mapping[str, Any], lineage: Lineage, target: Path) -> Path:
    """Write a folder with the recipe, a page about it and a manifest.

    Args:
        merge: the recipe's section of that name, every number said.
        target: must not exist.

    Returns:
        The target.
    """
    names = [model.name for model in lineage.models]
    recipe = {"base": "base", "models": {name: name for name in names}, "merge": merge}
    if lineage.dtype is not None:
        recipe["dtype"] = lineage.dtype
    with staged_folder(target) as folder:
        # JSON is YAML too, and its numbers are the floats to the last bit.
        (folder / RECIPE).write_text(json.dumps(recipe, indent=2) + "\n", "utf-8")
        text = _CARD.format(name=lineage.name, recipe=RECIPE, manifest=MANIFEST)
        (folder / "README.md").write_text(text, "utf-8")
        (folder / MANIFEST).write_bytes(manifest(folder, lineage.to_json()))
    return target
