"""Counting the codes of task vectors that are never stored, as a compiled loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evomerge.merging import words as at
from evomerge.merging.halves import load
from evomerge.merging.product_loops import fill

LANES = 2
"""Tables of counts per model, filled in turn: equal neighbours need not wait for each other."""

_STRIP = 256
"""Entries in flight: they stay in a core's nearest cache."""

_16 = np.uint32(16)
_CODE = np.uint32(0x7FFF)

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@at.compiled
def _count(codes: NDArray[np.uint16], count: int, tables: Integers) -> None:
    """Count the first codes in two tables, ``(LANES, CODES)``."""
    even, odd = tables[0], tables[1]
    for j in range(0, count - 1, 2):
        even[codes[j]] += 1
        odd[codes[j + 1]] += 1
    if count % 2:
        even[codes[count - 1]] += 1


@at.compiled
def count_codes(
    kinds: Integers, addresses: Integers, start: int, stop: int, counts: Integers
) -> None:
    """Count the codes of `evomerge.merging.magnitudes` of task vectors that are never stored.

    Args:
        kinds, addresses: of the base and the models, ``(N + 1,)``.
        start, stop: entries of these tensors.
        counts: ``(N, LANES, CODES)``, added to.
    """
    base, model = np.empty(_STRIP, np.float32), np.empty(_STRIP, np.float32)
    codes = np.empty(_STRIP, np.uint16)
    for first in range(start, stop, _STRIP):
        count = min(_STRIP, stop - first)
        load(kinds[0], addresses[0], first, base, count)
        for i in range(len(counts)):
            load(kinds[i + 1], addresses[i + 1], first, model, count)
            for j in range(count):
                codes[j] = (at.as_bits(model[j] - base[j]) >> _16) & _CODE
            _count(codes, count, counts[i])


@at.compiled
def count_entries(vector: Floats, stop: int, counts: Integers) -> None:
    """Count the codes of the first entries of a task vector that is stored.

    Args:
        counts: ``(LANES, CODES)``, added to.
    """
    codes = np.empty(_STRIP, np.uint16)
    for first in range(0, stop, _STRIP):
        count = min(_STRIP, stop - first)
        for j in range(count):
            codes[j] = (at.as_bits(vector[first + j]) >> _16) & _CODE
        _count(codes, count, counts)


@at.compiled
def count_product(
    records: Integers, columns: int, stop: int, room: Floats, counts: Integers
) -> None:
    """Count the codes of one adapter's task vector, a stretch of it at a time.

    Args:
        records: of its factors' panels, ``(1, 5)``, see `evomerge.merging.product_loops`.
        columns: of the tensor.
        stop: entries of the tensor.
        room: for a stretch; whole tiles are used if it holds a multiple of their rows.
        counts: ``(LANES, CODES)``, added to.
    """
    for first in range(0, stop, len(room)):
        end = min(first + len(room), stop)
        fill(room.ctypes.data, records, columns, first, end)
        count_entries(room, end - first, counts)
