"""The merge as compiled loops: one pass over base and models, with nothing stored in between.

Every loop does to an entry what the torch code beside it does (`evomerge.merging.entries`,
`evomerge.merging.fusion`), with the same roundings in the same order, so both give the same bits;
only the payload of NaN may differ. Compiled by numba at the first call and kept on disk; run
without the interpreter's lock, so that threads can share the work. Importing this loads numba.

Memory is passed as addresses and dtypes as the numbers of `KINDS`. Rules are float32, ``(N, 4)``,
a row ``(low, high, fraction, factor)`` per model: entries of the task vector smaller than ``low``
become 0, those smaller than ``high`` are multiplied by the fraction, then all by the factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from numpy.typing import NDArray

types: Any = numba.types

_F32, _BF16, _F16 = 0, 1, 2
KINDS = {"F32": _F32, "BF16": _BF16, "F16": _F16}
"""The dtypes that the kernels read and write, by their safetensors words."""

CODES = 2**15
LANES = 2
"""Tables of counts per model, filled in turn: equal neighbours need not wait for each other."""

_STRIP = 256
"""Entries in flight: what is kept of them between two models stays in a core's nearest cache."""

_16 = np.uint32(16)
_ODD = np.uint32(0x7FFF)
_ONE = np.uint32(1)
_SIGN = np.uint32(0x8000)
_NAN = np.uint16(0x7FC0)
_HALF_TO_FLOAT = np.float32(2.0**112)
_ZERO = np.float32(0)

Loop = TypeVar("Loop", bound=Callable[..., Any])
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def _compiled(loop: Loop) -> Loop:
    """The loop, compiled when it is first called.

    Kept on disk beside this file, else in the user's cache folder, or where NUMBA_CACHE_DIR says.
    """
    try:
        return cast(Loop, numba.njit(cache=True, nogil=True, error_model="numpy")(loop))
    except RuntimeError:  # no such place can be written to
        return cast(Loop, numba.njit(nogil=True, error_model="numpy")(loop))


def _reinterpreting(result: Any, argument: Any, cast_by: str) -> Any:
    """A function for compiled loops that keeps the bits and changes their type."""

    def typed(typingctx: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, cast_by)(args[0], context.get_value_type(result))

        return result(argument), generate

    return intrinsic(typed)


_float = _reinterpreting(types.float32, types.uint32, "bitcast")
_bits = _reinterpreting(types.uint32, types.float32, "bitcast")
_halves = _reinterpreting(types.CPointer(types.uint16), types.int64, "inttoptr")
_words = _reinterpreting(types.CPointer(types.float32), types.int64, "inttoptr")


@_compiled
def _from_bf16(bits: np.uint16) -> Any:
    return _float(np.uint32(bits) << _16)


@_compiled
def _to_bf16(value: np.float32) -> Any:
    """Round to nearest, ties to even."""
    bits = _bits(value)
    rounded = np.uint16((bits + _ODD + ((bits >> _16) & _ONE)) >> _16)
    return rounded if value == value else _NAN


@_compiled
def _from_f16(bits: np.uint16) -> Any:
    """Exact, subnormal numbers too: the exponent is moved by a product."""
    half = np.uint32(bits)
    size = _bits(_float((half & np.uint32(0x7FFF)) << np.uint32(13)) * _HALF_TO_FLOAT)
    if (half & np.uint32(0x7C00)) == np.uint32(0x7C00):
        size = np.uint32(size | np.uint32(0x7F800000))
    return _float(np.uint32(size | ((half & _SIGN) << _16)))


@_compiled
def _to_f16(value: np.float32) -> Any:
    """Round to nearest, ties to even; as in F. Giesen's float_to_half_fast3_rtne, public domain."""
    bits = _bits(value)
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    if size >= np.uint32(0x47800000):  # 65536 and more, infinity, NaN
        half = np.uint32(0x7E00) if size > np.uint32(0x7F800000) else np.uint32(0x7C00)
    elif size < np.uint32(0x38800000):  # subnormal: adding 0.5 puts the last bits in their place
        half = np.uint32(_bits(_float(size) + np.float32(0.5)) - np.uint32(0x3F000000))
    else:
        odd = (size >> np.uint32(13)) & _ONE
        half = np.uint32(np.uint32(size - np.uint32(0x37FFF001) + odd) >> np.uint32(13))
    return np.uint16(half | ((bits >> _16) & _SIGN))


@_compiled
def _load(kind: int, address: int, start: int, into: Floats, count: int) -> None:
    """Entries from ``start`` on, as float32."""
    if kind == _BF16:
        halves = carray(_halves(address), start + count)[start:]
        for j in range(count):
            into[j] = _from_bf16(halves[j])
    elif kind == _F16:
        halves = carray(_halves(address), start + count)[start:]
        for j in range(count):
            into[j] = _from_f16(halves[j])
    else:
        words = carray(_words(address), start + count)[start:]
        for j in range(count):
            into[j] = words[j]


@_compiled
def _store(kind: int, address: int, start: int, entries: Floats, count: int) -> None:
    if kind == _BF16:
        halves = carray(_halves(address), start + count)[start:]
        for j in range(count):
            halves[j] = _to_bf16(entries[j])
    elif kind == _F16:
        halves = carray(_halves(address), start + count)[start:]
        for j in range(count):
            halves[j] = _to_f16(entries[j])
    else:
        words = carray(_words(address), start + count)[start:]
        for j in range(count):
            words[j] = entries[j]


@_compiled
def _kept(entry: np.float32, low: np.float32, high: np.float32, fraction: np.float32) -> Any:
    """NaN stays NaN."""
    size = abs(entry)
    if size < high:
        entry = entry * fraction
    return _ZERO if size < low else entry


@_compiled
def _add_terms(
    kind: int, address: int, start: int, base: Floats, rule: Floats, total: Floats, count: int
) -> None:
    """Add a model's term; bfloat16 without a stop between memory and sum."""
    low, high, fraction, factor = rule[0], rule[1], rule[2], rule[3]
    if kind == _BF16:
        halves = carray(_halves(address), start + count)[start:]
        for j in range(count):
            vector = _from_bf16(halves[j]) - base[j]
            total[j] += _kept(vector, low, high, fraction) * factor
        return
    terms = np.empty(_STRIP, np.float32)
    _load(kind, address, start, terms, count)
    for j in range(count):
        total[j] += _kept(terms[j] - base[j], low, high, fraction) * factor


@_compiled
def add_sum(kinds: Integers, addresses: Integers, rules: Floats, start: int, stop: int) -> None:
    """``out = base + sum factor * kept(model - base)``, as `fusion.add_sum`.

    Args:
        kinds, addresses: of the output, the base and the models, ``(N + 2,)``.
        rules: ``(N, 4)``.
        start, stop: entries of these tensors.
    """
    base, total = np.empty(_STRIP, np.float32), np.empty(_STRIP, np.float32)
    for first in range(start, stop, _STRIP):
        count = min(_STRIP, stop - first)
        _load(kinds[1], addresses[1], first, base, count)
        for j in range(count):
            total[j] = base[j]
        for i in range(len(rules)):
            _add_terms(kinds[i + 2], addresses[i + 2], first, base, rules[i], total, count)
        _store(kinds[0], addresses[0], first, total, count)


@_compiled
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
        _load(kinds[0], addresses[0], first, base, count)
        for i in range(len(counts)):
            _load(kinds[i + 1], addresses[i + 1], first, model, count)
            for j in range(count):
                codes[j] = (_bits(model[j] - base[j]) >> _16) & _ODD
            even, odd = counts[i, 0], counts[i, 1]
            for j in range(0, count - 1, 2):
                even[codes[j]] += 1
                odd[codes[j + 1]] += 1
            if count % 2:
                even[codes[count - 1]] += 1


@_compiled
def _add_masses(term: Floats, size: np.float32, masses: Floats, count: int) -> None:
    """Add a model's terms and ``|weight|`` to the strips up, down, up weight, down weight.

    All in one array: of four, the compiler would have to know that they do not overlap.
    """
    for j in range(count):
        entry = term[j]
        masses[j] += _ZERO if entry <= _ZERO else entry
        masses[_STRIP + j] += _ZERO if entry >= _ZERO else entry
        masses[2 * _STRIP + j] += size if entry > _ZERO else _ZERO
        masses[3 * _STRIP + j] += size if entry < _ZERO else _ZERO


@_compiled
def _add_mean(
    total: Floats, masses: Floats, scaling: np.float32, least: np.float32, count: int
) -> None:
    """Add the mean of the terms with the elected sign; NaN where there is no sign for NaN."""
    for j in range(count):
        above, below = masses[j], masses[_STRIP + j]  # before any choice, so that it vectorises
        above_weight, below_weight = masses[2 * _STRIP + j], masses[3 * _STRIP + j]
        elected = above + below
        mass = above if elected > _ZERO else below
        divisor = above_weight if elected > _ZERO else below_weight
        mean = mass / (least if divisor < least else divisor)
        mean = _ZERO if elected == _ZERO else mean
        mean = elected if elected != elected else mean
        total[j] += mean * scaling


@_compiled
def add_elected_mean(
    kinds: Integers,
    addresses: Integers,
    rules: Floats,
    start: int,
    stop: int,
    scaling: np.float32,
    least: np.float32,
) -> None:
    """``out = base + scaling * disjoint mean``, as `fusion.add_elected`.

    Args:
        kinds, addresses: of the output, the base and the models, ``(N + 2,)``.
        rules: ``(N, 4)``; the factors are the weights.
        start, stop: entries of these tensors.
        scaling: float32.
        least: of the absolute weights, float32.
    """
    base, term = np.empty(_STRIP, np.float32), np.empty(_STRIP, np.float32)
    total, masses = np.empty(_STRIP, np.float32), np.empty(4 * _STRIP, np.float32)
    for first in range(start, stop, _STRIP):
        count = min(_STRIP, stop - first)
        _load(kinds[1], addresses[1], first, base, count)
        for j in range(count):
            total[j] = base[j]
        for j in range(4 * _STRIP):
            masses[j] = _ZERO
        for i in range(len(rules)):
            for j in range(count):
                term[j] = _ZERO
            _add_terms(kinds[i + 2], addresses[i + 2], first, base, rules[i], term, count)
            _add_masses(term, abs(rules[i, 3]), masses, count)
        _add_mean(total, masses, scaling, least, count)
        _store(kinds[0], addresses[0], first, total, count)
