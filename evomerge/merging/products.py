"""Sums of low-rank task vectors by compiled loops: no task vector is ever in memory.

The torch code of the methods is the reference and does the rest. Nothing here loads numba before
it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merging.fused import loops
from evomerge.merging.low_rank import PANEL_ROWS, Factors
from evomerge.merging.magnitudes import CODES, Threshold

Lazy = Callable[[], Factors]

_ROOM = 2**14
"""Entries of a product that are counted at once, if that holds enough rows for a tile."""


@dataclass(frozen=True)
class Products:
    """One tensor's merge, as the loops take it.

    Attributes:
        factors: give those of the models' task vectors, in their order, float32. Asked for when
            the loops run, so that a merge that waits for its turn holds none.
        rules: ``(N, 4)`` float32: factor, low, high, fraction.
        columns: of the tensor, whose further dimensions are one.
        masked: whether a rule keeps less than everything.
    """

    factors: tuple[Lazy, ...]
    rules: NDArray[np.float32]
    columns: int
    masked: bool

    def add_all(self, out: int, base: int, span: tuple[int, int]) -> None:
        """As `add`, from the addresses of the tensors' first entries."""
        self.add(out + 2 * span[0], base + 2 * span[0], span)

    def add(self, out: int, base: int, span: tuple[int, int]) -> None:
        """``out = base + sum factor * kept vector``, bfloat16, for the entries of a span.

        Args:
            out, base: addresses of the first of them.
        """
        add = _loops().add_masked if self.masked else _loops().add_whole
        factors = [lazy() for lazy in self.factors]
        add(out, base, _records(factors), self.rules, self.columns, *span)


def products(
    factors: Mapping[int, Lazy],
    columns: int,
    weights: Sequence[float],
    kept: Mapping[int, Threshold],
) -> Products:
    """The weighted sum of some models' task vectors.

    Args:
        factors: by model.
        columns: of the tensor.
        weights: of all models.
        kept: what is kept of a model's task vector; everything where there is none.
    """
    rules = []
    for i in factors:
        rule = kept.get(i)
        mask = (0.0, 0.0, 1.0) if rule is None else (rule.low, rule.high, rule.fraction)
        rules.append((weights[i], *mask))
    masked = any(i in kept for i in factors)
    return Products(tuple(factors.values()), np.array(rules, np.float32), columns, masked)


def fill_compiled(factors: Factors, start: int, out: Tensor) -> bool:
    """`evomerge.merging.low_rank.fill_product` by the loops, if they can.

    Returns:
        Whether it was done; if not, nothing was written.
    """
    if loops() is None or out.dtype != torch.float32:
        return False
    columns = factors.right.shape[1]
    _loops().fill(out.data_ptr(), _records([factors]), columns, start, start + len(out))
    return True


def product_counts(factors: Factors, count: int) -> Tensor:
    """How many entries of the product have which code of `evomerge.merging.magnitudes`.

    Args:
        factors: float32.
        count: entries of the product.

    Returns:
        ``(2**15,)`` int64.
    """
    from evomerge.merging.counting import LANES, count_product  # loads numba

    columns = factors.right.shape[1]
    rows = max(PANEL_ROWS, _ROOM // max(1, columns) // PANEL_ROWS * PANEL_ROWS)
    room = np.empty(max(1, min(count, rows * columns)), np.float32)
    counts = np.zeros((LANES, CODES), np.int64)
    count_product(_records([factors]), columns, count, room, counts)
    return torch.from_numpy(counts.sum(axis=0))


def _records(factors: Sequence[Factors]) -> NDArray[np.int64]:
    return np.array([_record(each) for each in factors], np.int64)


def _record(factors: Factors) -> tuple[int, ...]:
    """Where the panels lie; see `evomerge.merging.product_loops`."""
    left, right = factors.panels
    return (
        left.data_ptr(),
        left.stride(0) * left.itemsize,
        right.data_ptr(),
        right.stride(0) * right.itemsize,
        left.shape[1],
    )


@cache
def _loops() -> Any:
    from evomerge.merging import product_loops

    return product_loops
