"""A merge as a ``mergekit_config.yml``, where mergekit can express it exactly.

It can for weighted sums of whole task vectors: ``task_arithmetic``, ``linear``, ``weighted_sum``
where the weights add up to 1, and ``sparse_signed`` where every density is 1; and for ``slerp``,
``nuslerp`` and ``multislerp`` where they are at work in every tensor. Its sparsifying methods break
ties in magnitude by an unstable sort, so nothing sparse is expressed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from evomerge.merging.method import Settings, per_group, per_model
from evomerge.merging.plan import MergePlan

BLOCK = re.compile(r"^(?P<stem>.*?\.?(?:layers|h|blocks?)\.)(?P<index>\d+)\.(?P<rest>.+)$")
Filter = dict[str, str | float]
SUM = "task_arithmetic"


def mergekit_config(
    plan: MergePlan, base: str, models: Mapping[str, str], *, tensors: Sequence[str], dtype: str
) -> str | None:
    """The YAML text, or None where mergekit cannot say it.

    Args:
        base, models: paths from the folder that mergekit is started in.
        tensors: all names of the base's float tensors; those absent from the plan weigh 0.
        dtype: of the merged tensors; the arithmetic is float32 as ours.
    """
    told = {name: _told(plan, plan.tensors.get(name)) for name in tensors}
    exact = {name: value for name, value in told.items() if value is not None}
    layers = sorted({int(m["index"]) for m in map(BLOCK.match, exact) if m})
    if len(exact) < len(told) or not layers or layers != list(range(len(layers))):
        return None
    method = next(iter(exact.values())).method
    first = method == "slerp"
    sources = [(name, models[name]) for name in plan.models]
    origin = sources.pop(0)[1] if first else base
    slices = [_slice(i, len(layers), exact, sources, origin) for i in layers]
    document: dict[str, Any] = {
        "merge_method": method,
        "base_model": origin,
        "dtype": "float32",
        "out_dtype": dtype,
        **({"parameters": {"normalize": False}} if method == SUM else {}),
        "slices": slices,
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


class _Told(NamedTuple):
    """One tensor's merge in mergekit's words: a weight for each model, or one fraction."""

    method: str
    weights: Sequence[float] = ()
    fraction: float | None = None


def _told(plan: MergePlan, settings: Settings | None) -> _Told | None:
    if plan.method == "slerp":
        return None if settings is None else _Told("slerp", (), per_group(settings, "t"))
    if plan.method in ("nuslerp", "multislerp"):
        weights = () if settings is None else per_model(settings, "weight")
        return _Told(plan.method, weights) if sum(weights) else None
    found = _weights(plan.method, settings, plan.models)
    return None if found is None else _Told(SUM, found)


def _weights(method: str, settings: Settings | None, models: Sequence[str]) -> list[float] | None:
    """One weight per model's task vector; None where the merge is not such a sum."""
    if settings is None:
        return [0.0] * len(models)
    weight = settings.get("weight")
    if not isinstance(weight, tuple):
        return None
    if method == "task_arithmetic":
        return [per_group(settings, "scaling") * w for w in weight]
    if method == "linear":
        whole = sum(weight)
        return [w / whole for w in weight] if whole else list(weight)
    if method == "weighted_sum":
        return list(weight) if abs(sum(weight) - 1) < 1e-9 else None
    if method == "sparse_signed":
        pairs = zip(per_model(settings, "density"), weight, strict=True)
        return list(weight) if all(d == 1 or w == 0 for d, w in pairs) else None
    return None


def _slice(
    index: int,
    count: int,
    told: Mapping[str, _Told],
    models: Sequence[tuple[str, str]],
    base: str,
) -> dict[str, Any]:
    """One layer; the first also carries what comes before the blocks, the last what comes after."""
    inside: dict[str, _Told] = {}
    for name, value in told.items():
        match = BLOCK.match(name)
        if match and int(match["index"]) == index:
            inside[match["rest"]] = value
        elif not match and index in (0, count - 1):
            inside[name] = value
    sources: list[dict[str, Any]] = [{"model": base, "layer_range": [index, index + 1]}]
    for position, (_, path) in enumerate(models):
        source: dict[str, Any] = {"model": path, "layer_range": [index, index + 1]}
        values = {n: float(v.weights[position]) for n, v in inside.items() if v.weights}
        if values:
            source["parameters"] = {"weight": _filters(values)}
        sources.append(source)
    fractions = {n: v.fraction for n, v in inside.items() if v.fraction is not None}
    shared = {"parameters": {"t": _filters(fractions)}} if fractions else {}
    return {"sources": sources, **shared}


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
