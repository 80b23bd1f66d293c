"""One merge from a recipe file, ours or mergekit's, without a study."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from evomerge.checkpoint.caches import DIGESTS, cache_folder
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import parse_dtype
from evomerge.checkpoint.models import Model, opened_in
from evomerge.errors import UsageError
from evomerge.export.adapter import write_lora
from evomerge.export.lineage import AdapterForm, Lineage
from evomerge.export.writer import MERGEKIT, parent, write_checkpoint
from evomerge.merging.method import Settings
from evomerge.merging.plan import MergePlan
from evomerge.recipe.merge_recipe import MergeRecipe, load_merge
from evomerge.recipe.mergekit_file import BASE, MergekitFile
from evomerge.recipe.mergekit_merge import Arrangement, arrange
from evomerge.recipe.model_checks import same_vocabulary

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
LAYER_LISTS = ("layer_types", "mlp_layer_types")


def write_merge(
    recipe: Path | str,
    out: Path | str,
    *,
    dtype: str | None = None,
    shard_size: int | None = None,
    adapter: AdapterForm | None = None,
    note: Callable[[str], None] | None = None,
) -> Path:
    """Write the merge that a recipe file describes.

    Args:
        out: the new folder; must not exist.
        dtype: as people write it; None for the file's own.
        shard_size: in bytes; None for the file's own.
        adapter: write an adapter instead of a full checkpoint.
        note: is told what the file says in vain.

    Returns:
        The folder.
    """
    wanted, target = load_merge(recipe), Path(out)
    word = None if dtype is None else parse_dtype(dtype)
    if isinstance(wanted, MergekitFile):
        if adapter is not None:
            raise UsageError("a merge by a file of mergekit is written as a full checkpoint only")
        if note is not None:
            for line in wanted.notes:
                note(line)
        _check_tokenizers(wanted)
        text = Path(recipe).expanduser().read_text(encoding="utf-8-sig")
        return _write_mergekit(wanted, target, text, dtype=word, shard_size=shard_size)
    return _write_recipe(wanted, target, dtype=word, shard_size=shard_size, adapter=adapter)


def _write_recipe(
    wanted: MergeRecipe,
    target: Path,
    *,
    dtype: str | None,
    shard_size: int | None,
    adapter: AdapterForm | None,
) -> Path:
    with Checkpoint.open(wanted.recipe.base) as base:
        bound = wanted.recipe.bind(base.tensors)
    home, cache = wanted.path.parent, cache_folder() / DIGESTS
    plan = bound.plan(wanted.recipe.method, wanted.parameters)
    lineage = Lineage(
        name=target.name,
        base=parent("base", wanted.recipe.base, home=home, cache=cache),
        models=tuple(
            parent(name, path, home=home, cache=cache)
            for name, path in wanted.recipe.models.items()
        ),
        method=wanted.recipe.method,
        parameters=wanted.parameters,
        groups={group: len(names) for group, names in bound.groups.items()},
        vocabulary=wanted.recipe.vocabulary,
        dtype=dtype or wanted.dtype,
        adapter=adapter,
    )
    if adapter is not None:
        return write_lora(plan, lineage, target, wanted=adapter.wanted, dtype=lineage.dtype)
    return write_checkpoint(
        plan,
        lineage,
        target,
        dtype=lineage.dtype,
        shard_size=shard_size or wanted.shard_size,
        cache=cache,
    )


def _write_mergekit(
    wanted: MergekitFile, target: Path, text: str, *, dtype: str | None, shard_size: int | None
) -> Path:
    home, cache = Path.cwd(), cache_folder() / DIGESTS
    parents = {n: parent(n, path, home=home, cache=cache) for n, path in wanted.models.items()}
    base = parents.pop(BASE if wanted.based else next(iter(parents)))
    with ExitStack() as stack:
        opened = {name: opened_in(stack, path) for name, path in wanted.models.items()}
        arranged = arrange(wanted, opened)
        files = {MERGEKIT: text.encode(), **_config(arranged)}
        groups = groups_of(arranged.plan)
    lineage = Lineage(
        name=target.name,
        base=base,
        models=tuple(parents.values()),
        method=arranged.plan.method,
        parameters=_parameters(arranged.plan, groups),
        groups={group: len(names) for group, names in groups.items()},
        dtype=dtype or wanted.dtype,
    )

    def inputs(
        base_model: Checkpoint, models: Mapping[str, Model]
    ) -> tuple[Checkpoint, Mapping[str, Model]]:
        found = arrange(wanted, {base.name: base_model, **models})
        return found.base, found.models

    return write_checkpoint(
        arranged.plan,
        lineage,
        target,
        dtype=lineage.dtype,
        shard_size=shard_size,
        inputs=inputs,
        files=files,
        cache=cache,
    )


def _check_tokenizers(wanted: MergekitFile) -> None:
    """Refuse what mergekit would do here: order the rows of embeddings anew."""
    if not wanted.own_tokenizer:
        return
    first, *others = wanted.models.items()
    for name, path in others:
        if not same_vocabulary(first[1], path):
            raise UsageError(
                f"the vocabularies of {first[0]!r} and {name!r} differ, and tokenizer_source asks "
                "for rows of embeddings by token, which is not supported; without it row i is "
                "merged with row i",
                place=str(wanted.place),
            )


def groups_of(plan: MergePlan) -> dict[str, list[str]]:
    """Tensors that share their numbers, called after the first of them; ``*`` if all do."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, settings in plan.tensors.items():
        groups.setdefault(tuple(sorted(settings.items())), []).append(name)
    if len(groups) == 1:
        return {"*": list(plan.tensors)}
    return {names[0].removesuffix(".weight"): names for names in groups.values()}


def _parameters(plan: MergePlan, groups: Mapping[str, list[str]]) -> dict[str, float]:
    """Every group's numbers by ``MODEL/GROUP/FIELD`` or ``GROUP/FIELD``."""
    found: dict[str, float] = {}
    for group, names in groups.items():
        settings: Settings = plan.tensors[names[0]]
        for name, value in settings.items():
            if isinstance(value, tuple):
                found |= {
                    f"{model}/{group}/{name}": v
                    for model, v in zip(plan.models, value, strict=True)
                }
            else:
                found[f"{group}/{name}"] = value
    return found


def _config(arranged: Arrangement) -> dict[str, bytes]:
    """The config of a model with other layers than its base; nothing where all are in place."""
    config = arranged.base.config()
    if arranged.layers is None or config is None:
        return {}
    whole = json.loads(json.dumps(config))
    for part in (whole, whole.get("text_config")):
        if isinstance(part, dict):
            _with_layers(part, arranged.layers)
    return {"config.json": (json.dumps(whole, indent=2) + "\n").encode()}


def _with_layers(config: dict[str, Any], layers: tuple[int, ...]) -> None:
    """Change what a config says of each layer, and how many there are; in place."""
    for key in LAYER_COUNTS:
        if key in config:
            config[key] = len(layers)
    for key in LAYER_LISTS:
        if isinstance(config.get(key), list) and len(config[key]) > max(layers):
            config[key] = [config[key][layer] for layer in layers]
