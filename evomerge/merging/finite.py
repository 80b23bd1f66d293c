"""Counts NaN and infinity while the entries are at hand."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evomerge.checkpoint.checkpoint import bytes_of
from evomerge.checkpoint.dtypes import dtype_word

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


def non_finite(piece: Tensor) -> int:
    """How many entries of ``(n,)`` are NaN or infinite; 0 of dtypes that have neither."""
    exponent = _EXPONENTS.get(dtype_word(piece.dtype))
    if exponent is None:
        return 0
    bits: NDArray[np.unsignedinteger] = np.frombuffer(bytes_of(piece), exponent.dtype)
    found = 0
    for start in range(0, len(bits), _STRETCH):
        masked = bits[start : start + _STRETCH] & exponent
        if masked.max() == exponent:
            found += int(np.count_nonzero(masked == exponent))
    return found
