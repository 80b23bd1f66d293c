"""One merge from a recipe file, without a study."""

from __future__ import annotations

from pathlib import Path

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import parse_dtype
from evomerge.export.lineage import Lineage
from evomerge.export.writer import parent, write_checkpoint
from evomerge.recipe.merge_recipe import MergeRecipe


def write_merge(
    recipe: Path | str, out: Path | str, *, dtype: str | None = None, shard_size: int | None = None
) -> Path:
    """Write the merge that a recipe file describes.

    Args:
        out: the new folder; must not exist.
        dtype: as people write it; None for the file's own.
        shard_size: in bytes; None for the file's own.

    Returns:
        The folder.
    """
    wanted, target = MergeRecipe.load(recipe), Path(out)
    word = None if dtype is None else parse_dtype(dtype)
    with Checkpoint.open(wanted.recipe.base) as base:
        bound = wanted.recipe.bind(base.tensors)
    home = wanted.path.parent
    plan = bound.plan(wanted.recipe.method, wanted.parameters)
    lineage = Lineage(
        name=target.name,
        base=parent("base", wanted.recipe.base, home=home),
        models=tuple(parent(name, path, home=home) for name, path in wanted.recipe.models.items()),
        method=wanted.recipe.method,
        parameters=wanted.parameters,
        groups={group: len(names) for group, names in bound.groups.items()},
        dtype=word or wanted.dtype,
    )
    return write_checkpoint(
        plan, lineage, target, dtype=lineage.dtype, shard_size=shard_size or wanted.shard_size
    )
