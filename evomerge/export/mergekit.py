"""A merge as a ``mergekit_config.yml``, where mergekit can express it exactly.

It can for weighted sums of whole task vectors: ``task_arithmetic``, and ``sparse_signed`` where
every density is 1. Its sparsifying methods break ties in magnitude by
an unstable sort, so nothing sparse is expressed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from evomerge.merging.method import Settings
from evomerge.merging.plan import MergePlan

BLOCK = re.compile(r"^(?P<stem>.*?\.?(?:layers|h|blocks?)\.)(?P<index>\d+)\.(?P<rest>.+)$")
Filter = dict[str, str | float]


def mergekit_config(
    plan: MergePlan, base: str, models: Mapping[str, str], *, tensors: Sequence[str], dtype: str
) -> str | None:
    """The YAML text, or None where mergekit cannot say it.

    Args:
        base, models: paths from the folder that mergekit is started in.
        tensors: all names of the base's float tensors; those absent from the plan weigh 0.
        dtype: of the merged tensors; the arithmetic is float32 as ours.
    """
    weights = {name: _weights(plan.method, plan.tensors.get(name), plan.models) for name in tensors}
    if any(value is None for value in weights.values()):
        return None
    exact = {name: value for name, value in weights.items() if value is not None}
    layers = sorted({int(m["index"]) for m in map(BLOCK.match, exact) if m})
    if not layers or layers != list(range(len(layers))):
        return None
    slices = [
        _slice(i, len(layers), exact, [(name, models[name]) for name in plan.models], base)
        for i in layers
    ]
    document: dict[str, Any] = {
        "merge_method": "task_arithmetic",
        "base_model": base,
        "dtype": "float32",
        "out_dtype": dtype,
        "parameters": {"normalize": False},
        "slices": slices,
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _weights(method: str, settings: Settings | None, models: Sequence[str]) -> list[float] | None:
    """One weight per model's task vector; None where the merge is not such a sum."""
    if settings is None:
        return [0.0] * len(models)
    weight = settings.get("weight")
    if not isinstance(weight, tuple):
        return None
    if method == "task_arithmetic":
        scaling = settings["scaling"]
        return [float(scaling) * w for w in weight] if not isinstance(scaling, tuple) else None
    if method == "sparse_signed":
        density = settings["density"]
        whole = isinstance(density, tuple) and all(
            d == 1 or w == 0 for d, w in zip(density, weight, strict=True)
        )
        return list(weight) if whole else None
    return None


def _slice(
    index: int,
    count: int,
    weights: Mapping[str, Sequence[float]],
    models: Sequence[tuple[str, str]],
    base: str,
) -> dict[str, Any]:
    """One layer; the first also carries what comes before the blocks, the last what comes after."""
    inside = {}
    for name, value in weights.items():
        match = BLOCK.match(name)
        if match and int(match["index"]) == index:
            inside[match["rest"]] = value
        elif not match and index in (0, count - 1):
            inside[name] = value
    sources: list[dict[str, Any]] = [{"model": base, "layer_range": [index, index + 1]}]
    for position, (_, path) in enumerate(models):
        values = {name: float(value[position]) for name, value in inside.items()}
        sources.append(
            {
                "model": path,
                "layer_range": [index, index + 1],
                "parameters": {"weight": _filters(values)},
            }
        )
    return {"sources": sources}


def _filters(values: Mapping[str, float]) -> float | list[Filter]:
    """Values by tensor as mergekit's list of name filters, one per module where that is enough."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    modules: dict[str, set[float]] = {}
    for name, value in values.items():
        modules.setdefault(name.split(".")[0], set()).add(value)
    filters: list[Filter] = []
    for name, value in values.items():
        module = name.split(".")[0]
        word = module if len(modules[module]) == 1 else name
        entry: Filter = {"filter": word, "value": value}
        if entry not in filters:
            filters.append(entry)
    return filters
