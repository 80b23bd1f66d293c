"""Counting the magnitudes of task vectors: of checkpoints in one pass, of adapters one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.merging.bound_adapter import BoundAdapter
from evomerge.merging.entries import (
    COMPILED_CHUNK,
    Inputs,
    Stretch,
    read_runs,
    spans,
)
from evomerge.merging.fused import Counting, loops
from evomerge.merging.magnitudes import CODES, MagnitudeTable, add_counts
from evomerge.merging.scratch import Scratch

Each = Callable[[Callable[[int], Any], Iterable[int]], Iterator[Any]]
"""As `map`, perhaps by several threads."""


class Tally:
    """Counts the entries of several task vectors by their codes, stretch by stretch.

    Args:
        models: whose task vectors are counted, by their place.
        compiled: use the compiled loops, which take the dtypes of base and models.
    """

    def __init__(self, models: Sequence[int], *, compiled: bool) -> None:
        self._models = tuple(models)
        self._compiled = Counting(len(models)) if compiled else None
        self._counts = [np.zeros(CODES, np.int64) for _ in models]

    def add(self, inputs: Inputs, span: tuple[int, int], scratch: Scratch) -> None:
        """Count some entries of a tensor."""
        if self._compiled is not None:
            runs = read_runs(inputs, self._models, span, scratch)
            self._compiled.add(runs, span[1] - span[0])
            return
        import torch

        # A difference of float32 numbers has the same code whether float64 held it or not.
        stretch = Stretch(inputs, inputs.arithmetic(self._models), span, scratch, {})
        for counts, i in zip(self._counts, self._models, strict=True):
            add_counts(torch.from_numpy(counts), stretch.vector(i), scratch)

    def counts(self) -> list[NDArray[np.int64]]:
        """``(2**15,)`` by model."""
        return self._counts if self._compiled is None else self._compiled.counts()


def magnitude_tables(
    inputs: Inputs, models: Sequence[int], scratch: Scratch, *, compiled: bool = False
) -> dict[int, MagnitudeTable]:
    """Count the task vectors of some models, in one pass over the base.

    Args:
        compiled: use the compiled loops, which take the dtypes of these checkpoints.
    """
    tally = Tally(models, compiled=compiled)
    for span in spans(inputs.count, COMPILED_CHUNK if compiled else None):
        tally.add(inputs, span, scratch)
    pairs = zip(models, tally.counts(), strict=True)
    return {i: MagnitudeTable.of(found, inputs.count) for i, found in pairs}


def product_tables(
    inputs: Inputs, models: Sequence[int], each: Each = map
) -> dict[int, MagnitudeTable]:
    """The tables of those of some models that are adapters with a plain low-rank change, or none.

    Compiled, and without reading the base; empty where the compiled loops cannot be used. A model
    takes no more memory than its factors while it is counted.

    Args:
        each: counts models, perhaps several at once.
    """
    adapters = [i for i in models if isinstance(inputs.models[i], BoundAdapter)]
    if not adapters or loops() is None or inputs.base.entry(inputs.name).dtype == "F64":
        return {}
    from evomerge.merging.products import product_counts

    def table(i: int) -> MagnitudeTable | None:
        source = inputs.models[i]
        assert isinstance(source, BoundAdapter)
        if inputs.name not in source.changes:
            return MagnitudeTable.of(np.zeros(CODES, np.int64), inputs.count)
        factors = source.factors(inputs.name)
        return factors and MagnitudeTable.of(product_counts(factors(), inputs.count), inputs.count)

    found = zip(adapters, each(table, adapters), strict=True)
    return {i: counted for i, counted in found if counted is not None}
