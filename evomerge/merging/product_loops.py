"""Compiled loops over products of factors: task vectors of adapters, and sums of them on a base.

The same bits as `evomerge.merging.low_rank` and the torch code of the methods. A stretch of entries
is cut into tiles: whole rows eight at a time, parts of rows and what is left one by one. Importing
this loads numba.

A model's record is five numbers: the address of its left factor, ``(rank, rows)`` float32, and the
bytes from one rank to the next; the same for the right factor, ``(rank, columns)``; the rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from evomerge.merging import product_words as words

_ROWS, _LANES = 8, 16

_fill_tile = words.filling(_ROWS, _LANES)
_fill_line = words.filling(1, _LANES)
_fill_entry = words.filling(1, 1)
_add_tile = words.adding(_ROWS, _LANES, masked=False)
_add_line = words.adding(1, _LANES, masked=False)
_add_entry = words.adding(1, 1, masked=False)
_mask_tile = words.adding(_ROWS, _LANES, masked=True)
_mask_line = words.adding(1, _LANES, masked=True)
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
def _move(records: Integers, here: Integers, row: int, column: int) -> None:
    """The records of a tile: factors from this row and this column on."""
    for i in range(len(records)):
        here[i, 0] = records[i, 0] + 4 * row
        here[i, 2] = records[i, 2] + 4 * column


@_compiled
def _rows_here(start: int, stop: int, columns: int) -> Any:
    """How many rows the next tile has, and the entry behind it in its first row."""
    column = start % columns
    if column == 0 and stop - start >= _ROWS * columns:
        return _ROWS, start + columns
    return 1, min(stop, start - column + columns)


@_compiled
def fill(out: int, records: Integers, columns: int, start: int, stop: int) -> None:
    """Entries start to stop of one model's task vector, float32, from the address ``out`` on."""
    here = records.copy()
    place, at = here.ctypes.data, start
    while at < stop:
        rows, end = _rows_here(at, stop, columns)
        row, first = at // columns, at % columns
        lanes = at + (end - at) // _LANES * _LANES
        for j in range(at, lanes, _LANES):
            _move(records, here, row, first + j - at)
            if rows == _ROWS:
                _fill_tile(out + 4 * (j - start), 4 * columns, place)
            else:
                _fill_line(out + 4 * (j - start), 0, place)
        for r in range(rows):
            for j in range(lanes, end):
                _move(records, here, row + r, first + j - at)
                _fill_entry(out + 4 * (j + r * columns - start), 0, place)
        at += rows * columns if rows == _ROWS else end - at


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
    here = records.copy()
    places, table, models = here.ctypes.data, rules.ctypes.data, len(records)
    at = start
    while at < stop:
        rows, end = _rows_here(at, stop, columns)
        row, first = at // columns, at % columns
        lanes = at + (end - at) // _LANES * _LANES
        for j in range(at, lanes, _LANES):
            _move(records, here, row, first + j - at)
            to, source = out + 2 * (j - start), base + 2 * (j - start)
            if rows == _ROWS:
                _add_tile(to, source, 2 * columns, places, table, models)
            else:
                _add_line(to, source, 0, places, table, models)
        for r in range(rows):
            for j in range(lanes, end):
                _move(records, here, row + r, first + j - at)
                step = 2 * (j + r * columns - start)
                _add_entry(out + step, base + step, 0, places, table, models)
        at += rows * columns if rows == _ROWS else end - at


@_compiled
def add_masked(
    out: int, base: int, records: Integers, rules: Floats, columns: int, start: int, stop: int
) -> None:
    """As `add_whole`, of thinned task vectors: see `evomerge.merging.magnitudes.Threshold`."""
    here = records.copy()
    places, table, models = here.ctypes.data, rules.ctypes.data, len(records)
    at = start
    while at < stop:
        rows, end = _rows_here(at, stop, columns)
        row, first = at // columns, at % columns
        lanes = at + (end - at) // _LANES * _LANES
        for j in range(at, lanes, _LANES):
            _move(records, here, row, first + j - at)
            to, source = out + 2 * (j - start), base + 2 * (j - start)
            if rows == _ROWS:
                _mask_tile(to, source, 2 * columns, places, table, models)
            else:
                _mask_line(to, source, 0, places, table, models)
        for r in range(rows):
            for j in range(lanes, end):
                _move(records, here, row + r, first + j - at)
                step = 2 * (j + r * columns - start)
                _mask_entry(out + step, base + step, 0, places, table, models)
        at += rows * columns if rows == _ROWS else end - at
