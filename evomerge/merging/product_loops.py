"""Compiled loops over products of factors: task vectors of adapters, and sums of them on a base.

The same bits as `evomerge.merging.low_rank` and the torch code of the methods. A stretch of entries
is cut into tiles of eight rows and 32 columns, and what is left at its ends into single ones.
Importing this loads numba.

Factors come in panels, float32, so that a tile finds what it needs in a row: of the left one eight
rows, ``(rank, 8)``, of the right one 32 columns, ``(rank, 32)``. A model's record is five
numbers: address and bytes of the first left panel, the same of the first right one, the rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from evomerge.merging import product_words as words
from evomerge.merging.low_rank import PANEL_COLUMNS, PANEL_ROWS
from evomerge.merging.words import compiled, fetch_near, floats_at

ROWS, COLUMNS = PANEL_ROWS, PANEL_COLUMNS

_fill_tile, _fill_line, _fill_entry = (words.filling(rows) for rows in (ROWS, 1, 0))
_sum_tile, _sum_line, _sum_entry = (words.summing(rows) for rows in (ROWS, 1, 0))
_mask_tile, _mask_line, _mask_entry = (words.adding(rows) for rows in (ROWS, 1, 0))

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@compiled
def _next(at: int, stop: int, columns: int) -> Any:
    """Rows of the next stretch, and in its first one the entries behind the ends of three parts.

    Up to the first entry with a panel of its own, up to the last whole panel, up to the end.
    """
    row, column = at // columns, at % columns
    whole = column == 0 and row % ROWS == 0 and stop - at >= ROWS * columns
    end = at + columns if whole else min(stop, at - column + columns)
    first = min(end, at + (-column) % COLUMNS)
    return (ROWS if whole else 1), first, first + (end - first) // COLUMNS * COLUMNS, end


@compiled
def _fetch(out: int, base: int, columns: int) -> None:
    """Ask for a tile's memory before its products are summed, which takes as long."""
    for row in range(ROWS):
        fetch_near((out, base), 2 * row * columns)


@compiled
def _weigh(records: Integers, weights: Floats, row: int, room: Floats) -> None:
    """One left panel of each model, that of this row, times its weight, one after another."""
    done = 0
    for i in range(len(records)):
        count, weight = records[i, 4] * ROWS, weights[i]
        panel = carray(floats_at(records[i, 0] + row // ROWS * records[i, 1]), count)
        part = room[done : done + count]
        for j in range(count):
            part[j] = panel[j] * weight
        done += count


@compiled
def fill(out: int, records: Integers, columns: int, start: int, stop: int) -> None:
    """Entries start to stop of one model's task vector, float32, from the address ``out`` on."""
    place, at = records.ctypes.data, start
    while at < stop:
        rows, first, last, end = _next(at, stop, columns)
        row, origin = at // columns, at // columns * columns
        for j in range(first, last, COLUMNS):
            if rows == ROWS:
                _fill_tile(out + 4 * (j - start), 4 * columns, row, j - origin, place)
            else:
                _fill_line(out + 4 * (j - start), 0, row, j - origin, place)
        for r in range(rows):
            for begin, over in ((at, first), (last, end)):
                for j in range(begin, over):
                    step = 4 * (j + r * columns - start)
                    _fill_entry(out + step, 0, row + r, j - origin, place)
        at = end + (rows - 1) * columns


@compiled
def add_whole(
    out: int, base: int, records: Integers, weights: Floats, columns: int, start: int, stop: int
) -> None:
    """``out = base + sum weight * vector``, bfloat16, entries start to stop; the sum first.

    Args:
        out, base: addresses of the entry ``start``.
        records: ``(N, 5)``.
        weights: ``(N,)``; each is multiplied with the left factor.
        columns: of the tensor.
    """
    models, at = len(records), start
    room = np.empty(records[:, 4].sum() * ROWS, np.float32)
    weighted = records.copy()
    for i in range(models):
        weighted[i, 0] = room.ctypes.data + 4 * ROWS * records[:i, 4].sum()
        weighted[i, 1] = 0  # the room is all rows' in turn
    while at < stop:
        rows, first, last, end = _next(at, stop, columns)
        row, origin = at // columns, at // columns * columns
        _weigh(records, weights, row, room)
        places = weighted.ctypes.data  # in the loop: numba frees what is used no more
        for j in range(first, last, COLUMNS):
            step = 2 * (j - start)
            if rows == ROWS:
                _fetch(out + step, base + step, columns)
                _sum_tile(out + step, base + step, 2 * columns, row, j - origin, places, models)
            else:
                _sum_line(out + step, base + step, 0, row, j - origin, places, models)
        for r in range(rows):
            for begin, over in ((at, first), (last, end)):
                for j in range(begin, over):
                    step = 2 * (j + r * columns - start)
                    _sum_entry(out + step, base + step, 0, row + r, j - origin, places, models)
        at = end + (rows - 1) * columns


@compiled
def add_masked(
    out: int, base: int, records: Integers, rules: Floats, columns: int, start: int, stop: int
) -> None:
    """``out = base + sum factor * thinned vector``, bfloat16, model after model.

    Args:
        out, base, records, columns, start, stop: as for `add_whole`.
        rules: ``(N, 4)``: factor, low, high, fraction, see `evomerge.merging.magnitudes.Threshold`.
    """
    places, table, models = records.ctypes.data, rules.ctypes.data, len(records)
    at = start
    while at < stop:
        rows, first, last, end = _next(at, stop, columns)
        row, origin = at // columns, at // columns * columns
        for j in range(first, last, COLUMNS):
            step = 2 * (j - start)
            if rows == ROWS:
                _fetch(out + step, base + step, columns)
                _mask_tile(
                    out + step, base + step, 2 * columns, row, j - origin, places, table, models
                )
            else:
                _mask_line(out + step, base + step, 0, row, j - origin, places, table, models)
        for r in range(rows):
            for begin, over in ((at, first), (last, end)):
                for j in range(begin, over):
                    step = 2 * (j + r * columns - start)
                    _mask_entry(
                        out + step, base + step, 0, row + r, j - origin, places, table, models
                    )
        at = end + (rows - 1) * columns
