"""Numbers of 16 bits to float32 and back, and strips of any dtype as float32, in compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from evomerge.merging import words as at

_F32, _BF16, _F16 = 0, 1, 2
KINDS = {"F32": _F32, "BF16": _BF16, "F16": _F16}
"""The dtypes that the loops read and write, by their safetensors words."""

Floats = NDArray[np.float32]

_16 = np.uint32(16)
_ODD = np.uint32(0x7FFF)
_ONE = np.uint32(1)
_SIGN = np.uint32(0x8000)
_NAN = np.uint32(0x7FC00000)
_HALF_TO_FLOAT = np.float32(2.0**112)


@at.compiled
def _from_bf16(bits: np.uint16) -> Any:
    return at.as_float(np.uint32(np.uint32(bits) << _16))


@at.compiled
def rounded(value: np.float32) -> Any:
    """Bits whose upper half is the bfloat16 nearest, ties to even; the lower half is anything."""
    bits = at.as_bits(value)
    odd = np.uint32(np.uint32(bits >> _16) & _ONE)
    rounded = np.uint32(np.uint32(bits + _ODD) + odd)
    return rounded if value == value else _NAN


@at.compiled
def to_bf16(value: np.float32) -> Any:
    return np.uint16(rounded(value) >> _16)


@at.compiled
def _from_f16(bits: np.uint16) -> Any:
    """Exact, subnormal numbers too: the exponent is moved by a product."""
    half = np.uint32(bits)
    size = at.as_bits(at.as_float((half & np.uint32(0x7FFF)) << np.uint32(13)) * _HALF_TO_FLOAT)
    if (half & np.uint32(0x7C00)) == np.uint32(0x7C00):
        size = np.uint32(size | np.uint32(0x7F800000))
    return at.as_float(np.uint32(size | ((half & _SIGN) << _16)))


@at.compiled
def _to_f16(value: np.float32) -> Any:
    """Round to nearest, ties to even; as in F. Giesen's float_to_half_fast3_rtne, public domain."""
    bits = at.as_bits(value)
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    if size >= np.uint32(0x47800000):  # 65536 and more, infinity, NaN
        half = np.uint32(0x7E00) if size > np.uint32(0x7F800000) else np.uint32(0x7C00)
    elif size < np.uint32(0x38800000):  # subnormal: adding 0.5 puts the last bits in their place
        half = np.uint32(at.as_bits(at.as_float(size) + np.float32(0.5)) - np.uint32(0x3F000000))
    else:
        odd = (size >> np.uint32(13)) & _ONE
        half = np.uint32(np.uint32(size - np.uint32(0x37FFF001) + odd) >> np.uint32(13))
    return np.uint16(half | ((bits >> _16) & _SIGN))


@at.compiled
def load(kind: int, address: int, start: int, into: Floats, count: int) -> None:
    """Entries from ``start`` on, as float32."""
    if kind == _BF16:
        halves = carray(at.halves_at(address), start + count)[start:]
        for j in range(count):
            into[j] = _from_bf16(halves[j])
    elif kind == _F16:
        halves = carray(at.halves_at(address), start + count)[start:]
        for j in range(count):
            into[j] = _from_f16(halves[j])
    else:
        words = carray(at.floats_at(address), start + count)[start:]
        for j in range(count):
            into[j] = words[j]


@at.compiled
def store(kind: int, address: int, start: int, entries: Floats, count: int) -> None:
    if kind == _BF16:
        halves = carray(at.halves_at(address), start + count)[start:]
        for j in range(count):
            halves[j] = to_bf16(entries[j])
    elif kind == _F16:
        halves = carray(at.halves_at(address), start + count)[start:]
        for j in range(count):
            halves[j] = _to_f16(entries[j])
    else:
        words = carray(at.floats_at(address), start + count)[start:]
        for j in range(count):
            words[j] = entries[j]
