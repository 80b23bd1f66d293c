"""The task vector of a low-rank change: the product of its factors, never held whole.

One rule gives every entry, whatever else is computed with it: the products of ``scale * up`` and
``down`` are rounded one by one and added in the order of the ranks. So the bits depend on neither
chunks nor threads, which those of a matrix product from a library do.

A weighted sum of several such task vectors, of which everything is kept, is one product: their
factors side by side, the weights in the left ones. That costs less than the vectors one by one, and
is what a merge that is written as one adapter holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from evomerge.merging.scratch import Scratch

if TYPE_CHECKING:
    from torch import Tensor

PANEL_ROWS, PANEL_COLUMNS = 8, 32
"""What a tile of the compiled loops has."""


@dataclass(frozen=True)
class Panels:
    """A product's factors for the compiled loops.

    What is missing in the last panels is 0. Even columns stand before the odd ones of a panel.
    All NaN have the same bits, of which those that bfloat16 drops are 0.

    Attributes:
        left: ``(rows / 8, rank, 8)``.
        right: ``(columns / 32, rank, 32)``.
        record: where these two lie, see `evomerge.merging.product_loops`; nowhere once the panels
            are dropped, so whoever passes it on holds them until the loop is done.
    """

    left: Tensor
    right: Tensor
    record: tuple[int, ...]

    @classmethod
    def of(cls, left: Tensor, right: Tensor) -> Panels:
        """Of factors as those of `Factors`."""
        columns = _panels(right.T, PANEL_COLUMNS)
        pairs = columns.view(*columns.shape[:2], -1, 2)
        both = _panels(left, PANEL_ROWS), pairs.transpose(2, 3).contiguous().flatten(2)
        places = (number for side in both for number in (side.data_ptr(), side[:1].nbytes))
        return cls(*both, (*places, left.shape[1]))


@dataclass(frozen=True)
class Factors:
    """A matrix as a product, in the orientation of the tensor that it is added to.

    Attributes:
        left: ``(rows, rank)``, holds the scale.
        right: ``(rank, columns)``, contiguous.
    """

    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, up: Tensor, down: Tensor, *, transposed: bool) -> Factors:
        """From ``(out, rank)`` and ``(rank, in)``, for a tensor stored as that or transposed."""
        left, right = (down.T, up.T) if transposed else (up, down)
        return cls(left.contiguous(), right.contiguous())

    @property
    def size(self) -> int:
        """In bytes, with the panels."""
        return 2 * (self.left.nbytes + self.right.nbytes)

    @cached_property
    def panels(self) -> Panels:
        """To be asked for once a call: threads may each make some, and the last ones stay.

        From Python 3.12 on `cached_property` has no lock.
        """
        return Panels.of(self.left, self.right)


def _panels(lines: Tensor, height: int) -> Tensor:
    """``(n, rank)`` as ``(n / height, rank, height)``, filled up with zeros."""
    count, rank = lines.shape
    panels = lines.new_zeros(-(-count // height) * height, rank)
    panels[:count] = lines
    panels.masked_fill_(panels.isnan(), math.nan)
    return panels.view(-1, height, rank).transpose(1, 2).contiguous()


Parts = Sequence[tuple[Factors, float]]
"""A weighted sum of products, by factors and weight."""


def sum_of(parts: Parts) -> Factors:
    """The weighted sum as one product."""
    import torch

    lefts = [factors.left * weight for factors, weight in parts]
    return Factors(torch.cat(lefts, 1), torch.cat([factors.right for factors, _ in parts]))


def fill_product(factors: Factors, start: int, out: Tensor, scratch: Scratch) -> None:
    """Fill a stretch of entries of the flattened product.

    Args:
        start: place of the first entry.
        out: ``(n,)`` of the factors' dtype.
    """
    columns = factors.right.shape[1]
    done = 0
    while done < len(out):
        row, column = divmod(start + done, columns)
        if column or len(out) - done < columns:  # the part of a row
            count = min(columns - column, len(out) - done)
            rows, span = 1, slice(column, column + count)
        else:
            rows, span = (len(out) - done) // columns, slice(None)
            count = rows * columns
        block = out[done : done + count].view(rows, -1)
        _fill_block(factors.left[row : row + rows], factors.right[:, span], block, scratch)
        done += count


def _fill_block(left: Tensor, right: Tensor, out: Tensor, scratch: Scratch) -> None:
    """``(rows, rank)`` times ``(rank, columns)``."""
    import torch

    term = scratch.buffer("term", out.dtype, out.numel()).view(out.shape)
    torch.mul(left[:, :1], right[:1], out=out)
    for k in range(1, len(right)):
        out.add_(torch.mul(left[:, k : k + 1], right[k : k + 1], out=term))
