"""Compiled loops over products of factors: task vectors of adapters, and sums of them on a base.

The same bits as `evomerge.merging.low_rank` and the torch code of the methods. A stretch of entries
is cut into tiles of eight rows and sixteen columns, and what is left at its ends into single ones.
Importing this loads numba.

Factors come in panels, float32, so that a tile finds what it needs in a row: of the left one eight
rows, ``(rank, 8)``, of the right one sixteen columns, ``(rank, 16)``. A model's record is five
numbers: address and bytes of the first left panel, the same of the first right one, the rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from evomerge.merging import product_words as words
from evomerge.merging.low_rank import PANEL_COLUMNS, PANEL_ROWS

ROWS, LANES = PANEL_ROWS, PANEL_COLUMNS

_fill_tile = words.filling(ROWS, LANES)
_fill_line = words.filling(1, LANES)
_fill_entry = words.filling(1, 1)
_add_tile = words.adding(ROWS, LANES, masked=False)
_add_line = words.adding(1, LANES, masked=False)
_add_entry = words.adding(1, 1, masked=False)
_mask_tile = words.adding(ROWS, LANES, masked=True)
_mask_line = words.adding(1, LANES, masked=True)
_mask_entry = words.adding(1, 1, masked=True)

Loop = TypeVar("Loop", bound=Callable[..., Any])
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def _compiled(loop: Loop) -> Loop:
    """The loop, compiled when it is first called and kept on disk where that can be written."""
    try:
        return cast(Loop, numba.njit(cache=True, nogil=True, error_model="numpy")(loop))
    except RuntimeError:
        return cast(Loop, numba.njit(nogil=True, error_model="numpy")(loop))


@_compiled
def _tiles_of(records: Integers) -> Any:
    """Records of a tile, with the bytes from one rank to the next in place of a panel's."""
    here = records.copy()
    for i in range(len(records)):
        here[i, 1], here[i, 3] = 4 * ROWS, 4 * LANES
    return here


@_compiled
def _move(records: Integers, here: Integers, row: int, column: int) -> None:
    """Let the records of a tile begin at this row and this column."""
    for i in range(len(records)):
        here[i, 0] = records[i, 0] + row // ROWS * records[i, 1] + 4 * (row % ROWS)
        here[i, 2] = records[i, 2] + column // LANES * records[i, 3] + 4 * (column % LANES)


@_compiled
def _next(at: int, stop: int, columns: int) -> Any:
    """Rows of the next stretch, and in its first one the entries behind the ends of three parts.

    Up to the first entry with a panel of its own, up to the last whole panel, up to the end.
    """
    row, column = at // columns, at % columns
    whole = column == 0 and row % ROWS == 0 and stop - at >= ROWS * columns
    end = at + columns if whole else min(stop, at - column + columns)
    first = min(end, at + (-column) % LANES)
    return (ROWS if whole else 1), first, first + (end - first) // LANES * LANES, end


@_compiled
def fill(out: int, records: Integers, columns: int, start: int, stop: int) -> None:
    """Entries start to stop of one model's task vector, float32, from the address ``out`` on."""
    here = _tiles_of(records)
    place, at = here.ctypes.data, start
    while at < stop:
        rows, first, last, end = _next(at, stop, columns)
        row, origin = at // columns, at // columns * columns
        for j in range(first, last, LANES):
            _move(records, here, row, j - origin)
            if rows == ROWS:
                _fill_tile(out + 4 * (j - start), 4 * columns, place)
            else:
                _fill_line(out + 4 * (j - start), 0, place)
        for r in range(rows):
            for j in range(at, end):
                if j < first or j >= last:
                    _move(records, here, row + r, j - origin)
                    _fill_entry(out + 4 * (j + r * columns - start), 0, place)
        at = end + (rows - 1) * columns


@_compiled
def add_whole(
    out: int, base: int, records: Integers, rules: Floats, columns: int, start: int, stop: int
) -> None:
    """``out = base + sum factor * vector``, bfloat16, entries start to stop.

    Args:
        out, base: addresses of the entry ``start``.
        records: ``(N, 5)``.
        rules: ``(N, 4)``: factor, low, high, fraction; only the factor counts here.
        columns: of the tensor.
    """
    here = _tiles_of(records)
    places, table, models = here.ctypes.data, rules.ctypes.data, len(records)
    at = start
    while at < stop:
        rows, first, last, end = _next(at, stop, columns)
        row, origin = at // columns, at // columns * columns
        for j in range(first, last, LANES):
            _move(records, here, row, j - origin)
            step = 2 * (j - start)
            if rows == ROWS:
                _add_tile(out + step, base + step, 2 * columns, places, table, models)
            else:
                _add_line(out + step, base + step, 0, places, table, models)
        for r in range(rows):
            for j in range(at, end):
                if j < first or j >= last:
                    _move(records, here, row + r, j - origin)
                    step = 2 * (j + r * columns - start)
                    _add_entry(out + step, base + step, 0, places, table, models)
        at = end + (rows - 1) * columns


@_compiled
def add_masked(
    out: int, base: int, records: Integers, rules: Floats, columns: int, start: int, stop: int
) -> None:
    """As `add_whole`, of thinned task vectors: see `evomerge.merging.magnitudes.Threshold`."""
    here = _tiles_of(records)
    places, table, models = here.ctypes.data, rules.ctypes.data, len(records)
    at = start
    while at < stop:
        rows, first, last, end = _next(at, stop, columns)
        row, origin = at // columns, at // columns * columns
        for j in range(first, last, LANES):
            _move(records, here, row, j - origin)
            step = 2 * (j - start)
            if rows == ROWS:
                _mask_tile(out + step, base + step, 2 * columns, places, table, models)
            else:
                _mask_line(out + step, base + step, 0, places, table, models)
        for r in range(rows):
            for j in range(at, end):
                if j < first or j >= last:
                    _move(records, here, row + r, j - origin)
                    step = 2 * (j + r * columns - start)
                    _mask_entry(out + step, base + step, 0, places, table, models)
        at = end + (rows - 1) * columns
