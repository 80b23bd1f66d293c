"""Ranks of magnitudes along rows, and which entries they keep.

A row is the last dimension of a matrix or of anything larger; a vector is one row, and so is a
number. Equal magnitudes rank in the order of their places, so counts are exact. Rows are worked on
a few at a time: the ranks of a tensor would take several times its own memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

ROWS_AT_ONCE = 2**20
"""Entries; a longer row is worked on alone."""


def by_rows(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A flat tensor of this shape as ``(rows, width)``, sharing its memory."""
    return tensor.view(-1, shape[-1]) if len(shape) > 1 else tensor.view(1, -1)


def keep_band(rows: Tensor, kept: int, dropped: int) -> None:
    """Zero, in place, all of each row but the ``kept`` largest below the ``dropped`` largest.

    Args:
        rows: ``(r, n)``; NaN stays NaN.
        kept: in [0, n].
        dropped: in [0, n - kept].
    """
    stop = rows.shape[1] - dropped
    for part in _parts(rows):
        band = part.abs().argsort(dim=1, stable=True)[:, stop - kept : stop]
        part.mul_(torch.zeros_like(part).scatter_(1, band, 1.0))


def rank_chances(rows: Tensor, middle: float, reach: float) -> Tensor:
    """Numbers from ``middle - reach`` for a row's smallest magnitude to ``middle + reach``.

    They rise evenly with the rank; in rows of one entry it is the middle.

    Returns:
        ``(r, n)``, in the dtype of the rows.
    """
    width = rows.shape[1]
    found = torch.empty_like(rows)
    if width == 1:
        return found.fill_(middle)
    rising = torch.arange(width, dtype=rows.dtype).div_(width - 1)
    rising.mul_(2 * reach).add_(middle - reach)
    for part, out in zip(_parts(rows), _parts(found), strict=True):
        order = part.abs().argsort(dim=1, stable=True)
        out.scatter_(1, order, rising.expand_as(part))
    return found


def _parts(rows: Tensor) -> Iterator[Tensor]:
    """A few rows at a time, as views; nothing of an empty tensor."""
    if rows.numel():
        step = max(1, ROWS_AT_ONCE // rows.shape[1])
        for first in range(0, len(rows), step):
            yield rows[first : first + step]
