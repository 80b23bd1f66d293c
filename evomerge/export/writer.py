"""Writing one merge as a checkpoint folder: whole under its name, or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.caches import INDEX, cache_folder
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.files import staged_folder
from evomerge.checkpoint.hub import origin
from evomerge.checkpoint.layout import MODEL
from evomerge.checkpoint.models import Model, open_model, opened_in, own_tensors
from evomerge.checkpoint.names import listed
from evomerge.errors import CheckpointError, UsageError
from evomerge.export.card import model_card
from evomerge.export.lineage import MANIFEST, Lineage, Parent
from evomerge.export.manifest import manifest
from evomerge.export.mergekit import mergekit_config
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan
from evomerge.recipe.model_checks import stated_license

DEFAULT_SHARD_SIZE = 5 * 10**9
MERGEKIT = "mergekit_config.yml"
MERGEKIT_DTYPES: Mapping[str | None, str] = {
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
}
LICENSES = re.compile(r"(LICEN[CS]E|NOTICE)", re.IGNORECASE)
Inputs = Callable[[Checkpoint, Mapping[str, Model]], tuple[Checkpoint, Mapping[str, Model]]]


def write_checkpoint(
    plan: MergePlan,
    lineage: Lineage,
    target: Path,
    *,
    dtype: str | None,
    shard_size: int | None,
    replace: bool = False,
    inputs: Inputs | None = None,
    files: Mapping[str, bytes] = MappingProxyType({}),
    cache: Path | None = None,
    once: bool = True,
) -> Path:
    """Write a merged checkpoint with everything that belongs beside its tensors.

    Args:
        plan: what to do with every tensor.
        lineage: where base and models lie, and what the card and the manifest say.
        target: must not exist, unless `replace`.
        dtype: a safetensors word such as ``BF16``; None keeps the base's.
        shard_size: bytes; None takes 5 GB.
        inputs: from the open base and models, those of the plan; None where they are the same.
        files: written instead of what would be carried over or made under these names.
        cache: a file that remembers digests; tables of magnitudes are kept by those it has.
        once: as `Merger.write`; False where more merges of the same files follow.

    Returns:
        The target.

    Raises:
        UsageError: if the target lies inside the folder of the base or of a model.
        CheckpointError: if a model is broken, or the merge is not finite.
    """
    refuse_inside(target, lineage)
    with ExitStack() as stack:
        base = stack.enter_context(Checkpoint.open(lineage.base.path))
        models = {m.name: opened_in(stack, m.path) for m in lineage.models}
        if cache is not None:
            for model in (base, *models.values()):
                own_tensors(model).recall(cache)
        merger = Merger(
            *(inputs(base, models) if inputs else (base, models)),
            index=cache_folder() / INDEX,
            vocabulary=lineage.vocabulary,
        )
        with staged_folder(target, replace=replace) as folder:
            size = shard_size or DEFAULT_SHARD_SIZE
            written = merger.write(
                plan, folder, dtype=dtype, shard_size=size, digests=True, once=once
            )
            _check_finite(written.non_finite, target)
            _copy_side_files(base, models, folder)
            adapters = any(isinstance(model, Adapter) for model in models.values())
            same_rows = lineage.vocabulary == "refuse"
            if MERGEKIT not in files and not adapters and same_rows:
                _write_mergekit(plan, lineage, base, dtype, folder)
            for name, content in files.items():
                (folder / name).write_bytes(content)
            library = "transformers" if base.stems == MODEL else "diffusers"
            card = model_card(lineage, library=library)
            (folder / "README.md").write_text(card, encoding="utf-8")
            (folder / MANIFEST).write_bytes(manifest(folder, lineage.to_json(), written.digests))
    return target


def parent(name: str, path: Path, *, home: Path, cache: Path | None = None) -> Parent:
    """A parent as it is now, with the digests of its shards.

    Args:
        home: the campaign's or the recipe's folder.
        cache: a file that remembers digests of files that have not changed since.
    """
    with open_model(path) as model:
        shards: dict[str, dict[str, int | str]] = {
            shard: {"size": digest.size, "blake2b": digest.blake2b}
            for shard, digest in model.digests(cache).items()
        }
    license_name, found = stated_license(path), origin(path)
    if found is not None:
        return Parent(name, path, found.name, shards, license_name, found.revision)
    spoken = path.relative_to(home) if path.is_relative_to(home) else Path(path.name)
    return Parent(name, path, spoken.as_posix(), shards, license_name)


def refuse_inside(target: Path, lineage: Lineage) -> None:
    """UsageError if the target lies inside the folder of the base or of a model."""
    for model in (lineage.base, *lineage.models):
        if target.resolve().is_relative_to(model.path.resolve()):
            raise UsageError(
                f"this lies inside the folder of {model.name}; inputs are never written to",
                place=str(target),
                kept="nothing was written",
            )


def _check_finite(found: Mapping[str, int], target: Path) -> None:
    if found:
        raise CheckpointError(
            f"the merge has {sum(found.values())} NaN or infinite entries, "
            f"in {listed(list(found))}; "
            "a model holds such, or the dtype is too small for the merge",
            place=str(target),
            kept="nothing was written",
        )


def _copy_side_files(base: Checkpoint, models: Mapping[str, Model], folder: Path) -> None:
    """The base's configs and tokenizer byte for byte, and every model's licence by its name."""
    for path in base.side_files():
        copy = folder / path.relative_to(base.path)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    copy_licences(models, folder)


def copy_licences(models: Mapping[str, Model], folder: Path) -> None:
    """Every model's licence by its name."""
    for name, model in models.items():
        for path in model.side_files():
            if LICENSES.match(path.name):
                shutil.copyfile(path, folder / f"{path.stem}.{name}{path.suffix}")


def _write_mergekit(
    plan: MergePlan, lineage: Lineage, base: Checkpoint, dtype: str | None, folder: Path
) -> None:
    if base.config() is None or base.stems != MODEL:
        return  # mergekit reads language models alone
    floating = {name: entry for name, entry in base.tensors.items() if entry.is_float}
    stored = {entry.dtype for entry in floating.values()}
    word = dtype or (stored.pop() if len(stored) == 1 else None)
    if word not in MERGEKIT_DTYPES:
        return
    text = mergekit_config(
        plan,
        lineage.base.spoken,
        {model.name: model.spoken for model in lineage.models},
        tensors=list(floating),
        dtype=MERGEKIT_DTYPES[word],
    )
    if text is not None:
        (folder / MERGEKIT).write_text(text, encoding="utf-8")
