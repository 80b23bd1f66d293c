"""Counts NaN and infinity while the entries are at hand."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from evomerge.checkpoint.memory import Entries

_EXPONENTS: Mapping[str, np.unsignedinteger] = MappingProxyType(
    {
        "BF16": np.uint16(0x7F80),
        "F16": np.uint16(0x7C00),
        "F32": np.uint32(0x7F800000),
        "F64": np.uint64(0x7FF0000000000000),
    }
)
"""The bits of the exponent: all set in NaN and infinity, and in nothing else."""

_STRETCH = 2**15


def non_finite(piece: Entries) -> int:
    """How many are NaN or infinite; 0 of dtypes that have neither."""
    exponent = _EXPONENTS.get(piece.word)
    if exponent is None:
        return 0
    bits: NDArray[np.unsignedinteger] = piece.data.view(exponent.dtype)
    found = 0
    for start in range(0, len(bits), _STRETCH):
        masked = bits[start : start + _STRETCH] & exponent
        if masked.max() == exponent:
            found += int(np.count_nonzero(masked == exponent))
    return found
