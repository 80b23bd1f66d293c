"""Merges on the factors of adapters: by methods that work on them, and sums without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.checkpoint.adapter import Change, LowRank
from evomerge.checkpoint.names import listed, quoted
from evomerge.errors import UsageError
from evomerge.merging.bound_adapter import BoundAdapter
from evomerge.merging.entries import Inputs, Source
from evomerge.merging.fused import loops
from evomerge.merging.lines import Lines, inner_settings
from evomerge.merging.low_rank import Factors
from evomerge.merging.magnitudes import Threshold
from evomerge.merging.method import Joining, MergeMethod, Settings
from evomerge.merging.sources import Stored
from evomerge.merging.sums import WeightedSum

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from evomerge.merging.products import Products


def joined(method: MergeMethod, settings: Settings, inputs: Inputs) -> Factors | None:
    """The factors of one tensor's merged change; None if the method joins none."""
    if isinstance(method, Lines):
        return joined(method.inner, inner_settings(settings), inputs)
    if not isinstance(method, Joining):
        return None
    kind = inputs.arithmetic(())
    parts = parts_of(method.used(settings), inputs.models, inputs.name, kind)
    transposed = any(
        change.low_rank.transposed
        for source in inputs.models
        if isinstance(source, BoundAdapter)
        and (change := source.changes.get(inputs.name)) is not None
        and change.low_rank is not None
    )
    try:
        return Factors.of(*method.join(parts, settings), transposed=transposed)
    except UsageError as error:
        raise UsageError(f"tensor {quoted(inputs.name)}: {error.cause}") from None


def summed(
    method: MergeMethod,
    settings: Settings,
    kept: Mapping[int, Threshold],
    inputs: Inputs,
) -> Products | None:
    """One tensor's merge where it is a sum of products; None of any other.

    Args:
        kept: what is kept of task vectors, by model.
    """
    if not isinstance(method, WeightedSum):
        return None
    factors = inputs.factors(method.used(settings))
    if factors is None or inputs.base.entry(inputs.name).dtype == "F64":
        return None
    from evomerge.merging.products import products

    columns = math.prod(inputs.base.entry(inputs.name).shape[1:])
    return products(factors, columns, method.coefficients(settings), kept)


def compiled(kept: Mapping[int, Threshold], inputs: Inputs, word: str) -> bool:
    """Whether the compiled loops do this sum.

    Args:
        kept: what is kept of task vectors, by model.
        word: safetensors dtype of the output.
    """
    halves = word == inputs.base.entry(inputs.name).dtype == "BF16"
    return halves and loops() is not None and all(t.lot is None for t in kept.values())


def parts_of(
    used: Sequence[int], models: Sequence[Stored | BoundAdapter], name: str, kind: torch.dtype
) -> dict[int, tuple[Tensor, Tensor, float]]:
    """What `Joining.join` takes, for one tensor of the base."""
    parts = {}
    for i in used:
        model = models[i]
        change = model.changes.get(name) if isinstance(model, BoundAdapter) else None
        if isinstance(model, BoundAdapter) and change is not None and change.low_rank is not None:
            factors = model.adapter.plain_factors(change.low_rank, kind)
            parts[i] = (*factors, change.low_rank.scale)
    return parts


def check_joinable(method: str, models: Mapping[str, Source]) -> None:
    """Says whether a method that works on factors can take these models.

    Raises:
        UsageError: one is no adapter, or changes tensors by more than plain factors.
    """
    for name, model in models.items():
        if not isinstance(model, BoundAdapter):
            raise UsageError(
                f"{method} works on the factors of LoRA adapters; {quoted(name)} is a whole model"
            )
        others = [tensor for tensor, change in model.changes.items() if plain(change) is None]
        if others:
            raise UsageError(
                f"{method} works on the factors of LoRA adapters; {quoted(name)} changes "
                f"{listed(others)} by more or by other than factors"
            )


def plain(change: Change) -> LowRank | None:
    """The factors of a change that is nothing else; None of any other."""
    alone = change.replaced is None and change.added is None
    factors = change.low_rank
    return factors if alone and factors is not None and factors.magnitude is None else None
