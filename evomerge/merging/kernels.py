"""The merge as compiled loops: one pass over base and models, with nothing stored in between.

Every loop does to an entry what the torch code beside it does (`evomerge.merging.entries`,
`evomerge.merging.fusion`), with the same roundings in the same order, so both give the same bits;
only the payload of NaN may differ. Compiled by numba at the first call and kept on disk; run
without the interpreter's lock, so that threads can share the work. Importing this loads numba.

Models in bfloat16 throughout, up to `UNROLLED`, are merged with everything in registers; any number
in any mixture of dtypes goes through strips in a core's nearest cache. Numba compiles a loop for
each number of models and each form of rule that it meets.

Memory is passed as addresses and dtypes as the numbers of `KINDS`. Rules are float32,
``(N, columns)``, a row per model; the number of columns is the form of the mask:

    WHOLE   factor: of all entries of the task vector
    SMOOTH  factor, low, high, fraction: entries smaller than ``low`` become 0, those smaller than
            ``high`` are multiplied by the fraction, then all by the factor
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core.types import NoneType
from numba.extending import overload
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from evomerge.merging import words as at

_F32, _BF16, _F16 = 0, 1, 2
KINDS = {"F32": _F32, "BF16": _BF16, "F16": _F16}
"""The dtypes that the kernels read and write, by their safetensors words."""

WHOLE, SMOOTH = 1, 4
UNROLLED = 8

CODES = 2**15
LANES = 2
"""Tables of counts per model, filled in turn: equal neighbours need not wait for each other."""

_STRIP = 256
"""Entries in flight: what is kept of them between two models stays in a core's nearest cache."""

_NEAR, _FAR = 512, 2048
"""Bytes ahead of their use at which memory is asked for: the best of 256 to 8192, measured."""

_BLOCK = 16 * at.FETCHED_LINES
"""Words of 32 bits between two requests."""

_16 = np.uint32(16)
_ODD = np.uint32(0x7FFF)
_ONE = np.uint32(1)
_SIGN = np.uint32(0x8000)
_UPPER = np.uint32(0xFFFF0000)
_TOP = np.uint32(0x80000000)
_NAN = np.uint32(0x7FC00000)
_HALF_TO_FLOAT = np.float32(2.0**112)
_ZERO = np.float32(0)

Loop = TypeVar("Loop", bound=Callable[..., Any])
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Nones = tuple[None, ...]
"""As long as something is: what numba must know when it compiles."""


def _compiled(loop: Loop) -> Loop:
    """The loop, compiled when it is first called.

    Kept on disk beside this file, else in the user's cache folder, or where NUMBA_CACHE_DIR says.
    """
    try:
        return cast(Loop, numba.njit(cache=True, nogil=True, error_model="numpy")(loop))
    except RuntimeError:  # no such place can be written to
        return cast(Loop, numba.njit(nogil=True, error_model="numpy")(loop))


@_compiled
def _from_bf16(bits: np.uint16) -> Any:
    return at.as_float(np.uint32(np.uint32(bits) << _16))


@_compiled
def _rounded(value: np.float32) -> Any:
    """Bits whose upper half is the bfloat16 nearest, ties to even; the lower half is anything."""
    bits = at.as_bits(value)
    odd = np.uint32(np.uint32(bits >> _16) & _ONE)
    rounded = np.uint32(np.uint32(bits + _ODD) + odd)
    return rounded if value == value else _NAN


@_compiled
def _to_bf16(value: np.float32) -> Any:
    return np.uint16(_rounded(value) >> _16)


@_compiled
def _from_f16(bits: np.uint16) -> Any:
    """Exact, subnormal numbers too: the exponent is moved by a product."""
    half = np.uint32(bits)
    size = at.as_bits(at.as_float((half & np.uint32(0x7FFF)) << np.uint32(13)) * _HALF_TO_FLOAT)
    if (half & np.uint32(0x7C00)) == np.uint32(0x7C00):
        size = np.uint32(size | np.uint32(0x7F800000))
    return at.as_float(np.uint32(size | ((half & _SIGN) << _16)))


@_compiled
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


@_compiled
def _load(kind: int, address: int, start: int, into: Floats, count: int) -> None:
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


@_compiled
def _store(kind: int, address: int, start: int, entries: Floats, count: int) -> None:
    if kind == _BF16:
        halves = carray(at.halves_at(address), start + count)[start:]
        for j in range(count):
            halves[j] = _to_bf16(entries[j])
    elif kind == _F16:
        halves = carray(at.halves_at(address), start + count)[start:]
        for j in range(count):
            halves[j] = _to_f16(entries[j])
    else:
        words = carray(at.floats_at(address), start + count)[start:]
        for j in range(count):
            words[j] = entries[j]


def _term(vector: Any, rule: Any) -> Any:
    """Whether an entry of a task vector is dropped, and its term in the sum. NaN stays NaN."""


@overload(_term, strict=False)
def _typed_term(vector: Any, rule: Any) -> Any:
    if rule.count == WHOLE:
        return lambda vector, rule: (False, vector * rule[0])

    def smooth(vector: Any, rule: Any) -> Any:
        size = abs(vector)
        thinned = vector * rule[3] if size < rule[2] else vector
        return size < rule[1], thinned * rule[0]

    return smooth


@_compiled
def _plus(total: np.float32, vector: np.float32, rule: Any) -> Any:
    dropped, term = _term(vector, rule)
    return total if dropped else total + term


@_compiled
def _kept(vector: np.float32, rule: Any) -> Any:
    dropped, term = _term(vector, rule)
    return _ZERO if dropped else term


def _sum(total: Any, base: Any, entries: Any, rules: Any) -> Any:
    """The total and the terms of all models, added in their order."""


@overload(_sum, strict=False)
def _typed_sum(total: Any, base: Any, entries: Any, rules: Any) -> Any:
    if entries.count == 0:
        return lambda total, base, entries, rules: total

    def more(total: Any, base: Any, entries: Any, rules: Any) -> Any:
        return _sum(_plus(total, entries[0] - base, rules[0]), base, entries[1:], rules[1:])

    return more


def _agreeing(mass: Any, weight: Any, base: Any, entries: Any, rules: Any, side: Any) -> Any:
    """Two sums over the terms on one side of 0: their sizes, and their factors' sizes.

    Args:
        side: the sign bit of that side.
    """


@overload(_agreeing, strict=False)
def _typed_agreeing(mass: Any, weight: Any, base: Any, entries: Any, rules: Any, side: Any) -> Any:
    if entries.count == 0:
        return lambda mass, weight, base, entries, rules, side: (mass, weight)

    def more(mass: Any, weight: Any, base: Any, entries: Any, rules: Any, side: Any) -> Any:
        found = _joined(mass, weight, _kept(entries[0] - base, rules[0]), rules[0], side)
        return _agreeing(found[0], found[1], base, entries[1:], rules[1:], side)

    return more


@_compiled
def _joined(mass: np.float32, weight: np.float32, term: np.float32, rule: Any, side: Any) -> Any:
    size = at.as_float(np.uint32(at.as_bits(term) ^ side))
    if size > _ZERO:
        return mass + size, weight + abs(rule[0])
    return mass, weight


@_compiled
def _elected(total: np.float32, mass: np.float32, weight: np.float32) -> Any:
    """The mean on the side of the total; 0 where there is none, NaN where it is NaN."""
    side = np.uint32(at.as_bits(total) & _TOP)
    mean = at.as_float(np.uint32(at.as_bits(mass / weight) ^ side))
    return mean if total < _ZERO or total > _ZERO else total


def _merged(base: Any, entries: Any, rules: Any, scaling: Any) -> Any:
    """One entry of the merge: a plain sum without ``scaling``, else with signs elected."""


@overload(_merged, strict=False)
def _typed_merged(base: Any, entries: Any, rules: Any, scaling: Any) -> Any:
    if isinstance(scaling, NoneType):
        return lambda base, entries, rules, scaling: _sum(base + _ZERO, base, entries, rules)

    def elected(base: Any, entries: Any, rules: Any, scaling: Any) -> Any:
        total = _sum(_ZERO, base, entries, rules)
        side = np.uint32(at.as_bits(total) & _TOP)
        mass, weight = _agreeing(_ZERO, _ZERO, base, entries, rules, side)
        return base + _ZERO + _elected(total, mass, weight) * scaling

    return elected


@_compiled
def _merge_pairs(out: int, sources: Any, rules: Any, scaling: Any, first: int, last: int) -> None:
    """Words ``first`` to ``last`` of bfloat16 numbers: two entries each, never brought in order."""
    for j in range(first, last):
        entries = at.lower_of(sources, j)
        lower = _merged(entries[0], entries[1:], rules, scaling)
        entries = at.upper_of(sources, j)
        upper = _merged(entries[0], entries[1:], rules, scaling)
        rounded = np.uint32(_rounded(lower) >> _16)
        at.put_word(out, j, np.uint32(rounded | np.uint32(_rounded(upper) & _UPPER)))


@_compiled
def merge_bf16(
    out: int,
    addresses: Integers,
    rules: Floats,
    scaling: np.float32 | None,
    count: int,
    sources: Nones,
    columns: Nones,
) -> None:
    """The merge of models in bfloat16 throughout, as `merge` does it, with all in registers.

    Args:
        out, addresses, rules, scaling: as for `merge`, without dtypes.
        count: entries, from the addresses on.
        sources: one for the base and for every model.
        columns: one for every column of ``rules``.
    """
    places = at.numbers_of(addresses.ctypes.data, sources)
    table = at.rows_of(rules.ctypes.data, sources[1:], columns)
    blocks = count // 2 // _BLOCK * _BLOCK
    for first in range(0, blocks, _BLOCK):
        at.fetch_near(places, 4 * first + _NEAR)
        at.fetch_far(places, 4 * first + _FAR)
        _merge_pairs(out, places, table, scaling, first, first + _BLOCK)
    _merge_pairs(out, places, table, scaling, blocks, count // 2)
    if count % 2:
        entries = at.half_of(places, count - 1)
        last = _merged(entries[0], entries[1:], table, scaling)
        at.put_half(out, count - 1, _to_bf16(last))


@_compiled
def merge(
    kinds: Integers,
    addresses: Integers,
    rules: Floats,
    scaling: np.float32 | None,
    start: int,
    stop: int,
    columns: Nones,
) -> None:
    """``out = base + sum term``, or with signs elected ``base + scaling * mean of those agreeing``.

    As `evomerge.merging.fusion.add_sum` and `add_elected`.

    Args:
        kinds, addresses: of the output, the base and the models, ``(N + 2,)``.
        rules: ``(N, columns)``.
        scaling: float32, or nothing for the plain sum.
        start, stop: entries of these tensors.
        columns: as many as ``rules`` has.
    """
    base, model = np.empty(_STRIP, np.float32), np.empty(_STRIP, np.float32)
    total = np.empty(_STRIP, np.float32)
    for first in range(start, stop, _STRIP):
        count = min(_STRIP, stop - first)
        _load(kinds[1], addresses[1], first, base, count)
        for j in range(count):
            total[j] = base[j] + _ZERO if scaling is None else _ZERO
        for i in range(len(rules)):
            rule = at.rows_of(rules[i:].ctypes.data, (None,), columns)[0]
            _load(kinds[i + 2], addresses[i + 2], first, model, count)
            for j in range(count):
                total[j] = _plus(total[j], model[j] - base[j], rule)
        if scaling is not None:
            _elect(kinds[2:], addresses[2:], rules, scaling, first, base, total, count, columns)
        _store(kinds[0], addresses[0], first, total, count)


@_compiled
def _elect(
    kinds: Integers,
    addresses: Integers,
    rules: Floats,
    scaling: np.float32,
    first: int,
    base: Floats,
    total: Floats,
    count: int,
    columns: Nones,
) -> None:
    """Turn the sums of a strip into the merge, reading its models a second time."""
    model = np.empty(_STRIP, np.float32)
    mass, weight = np.zeros(_STRIP, np.float32), np.zeros(_STRIP, np.float32)
    for i in range(len(rules)):
        rule = at.rows_of(rules[i:].ctypes.data, (None,), columns)[0]
        _load(kinds[i], addresses[i], first, model, count)
        for j in range(count):
            side = np.uint32(at.as_bits(total[j]) & _TOP)
            term = _kept(model[j] - base[j], rule)
            mass[j], weight[j] = _joined(mass[j], weight[j], term, rule, side)
    for j in range(count):
        total[j] = base[j] + _ZERO + _elected(total[j], mass[j], weight[j]) * scaling


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
                codes[j] = (at.as_bits(model[j] - base[j]) >> _16) & _ODD
            even, odd = counts[i, 0], counts[i, 1]
            for j in range(0, count - 1, 2):
                even[codes[j]] += 1
                odd[codes[j + 1]] += 1
            if count % 2:
                even[codes[count - 1]] += 1
