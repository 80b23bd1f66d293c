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
from evomerge.merging.low_rank import PANEL_ROWS, Factors, Panels, Parts
from evomerge.merging.magnitudes import CODES, Threshold

Lazy = Callable[[], Factors]

_ROOM = 2**14
"""Entries of a product that are counted at once, if that holds enough rows for a tile."""


@dataclass(frozen=True)
class Products:
    """One tensor's merge, as the loops take it.

    Attributes:
        parts: gives the models' factors, float32, and weights, in their order. Asked for when the
            loops run, so that a merge that waits for its turn holds none.
        columns: of the tensor, whose further dimensions are one.
        rules: ``(N, 4)`` float32: factor, low, high, fraction; None where everything is kept, and
            the merge is `evomerge.merging.low_rank.sum_of` on the base.
    """

    parts: Callable[[], Parts]
    columns: int
    rules: NDArray[np.float32] | None = None

    def add_all(self, out: int, base: int, span: tuple[int, int]) -> None:
        """As `add`, from the addresses of the tensors' first entries."""
        self.add(out + 2 * span[0], base + 2 * span[0], span)

    def add(self, out: int, base: int, span: tuple[int, int]) -> None:
        """``out = base + sum factor * kept vector``, bfloat16, for the entries of a span.

        Args:
            out, base: addresses of the first of them.
        """
        parts = self.parts()
        panels = [factors.panels for factors, _ in parts]  # held until the loop is done
        records = _records(panels)
        if self.rules is None:
            weights = np.array([weight for _, weight in parts], np.float32)
            _loops().add_whole(out, base, records, weights, self.columns, *span)
        else:
            _loops().add_masked(out, base, records, self.rules, self.columns, *span)


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

    def parts() -> Parts:
        return [(lazy(), weights[i]) for i, lazy in factors.items()]

    if not any(i in kept for i in factors):
        return Products(parts, columns)
    whole = Threshold(0.0, 0.0, 1.0)
    masks = [(weights[i], kept.get(i, whole)) for i in factors]
    rules = [(weight, mask.low, mask.high, mask.fraction) for weight, mask in masks]
    return Products(parts, columns, np.array(rules, np.float32))


def fill_compiled(factors: Factors, start: int, out: Tensor) -> bool:
    """`evomerge.merging.low_rank.fill_product` by the loops, if they can.

    Returns:
        Whether it was done; if not, nothing was written.
    """
    if loops() is None or out.dtype != torch.float32:
        return False
    columns = factors.right.shape[1]
    panels = [factors.panels]  # held until the loop is done
    _loops().fill(out.data_ptr(), _records(panels), columns, start, start + len(out))
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
    panels = [factors.panels]  # held until the loop is done
    count_product(_records(panels), columns, count, room, counts)
    return torch.from_numpy(counts.sum(axis=0))


def _records(panels: Sequence[Panels]) -> NDArray[np.int64]:
    return np.array([each.record for each in panels], np.int64)


@cache
def _loops() -> Any:
    from evomerge.merging import product_loops

    return product_loops
