"""The merge as compiled loops: one pass over base and models, with nothing stored in between.

Every loop does to an entry what the torch code beside it does (`evomerge.merging.entries`,
`evomerge.merging.fusion`), with the same roundings in the same order, so both give the same bits;
only the bits of NaN may differ. Compiled by numba at the first call and kept on disk; run
without the interpreter's lock, so that threads can share the work. Importing this loads numba.

Up to `UNROLLED` models of one dtype throughout are written out, with everything in registers; any
number in any mixture of dtypes goes through strips in a core's nearest cache. Numba compiles a loop
for each number of models, each form of rule and each dtype that it meets.

Memory is passed as addresses and dtypes as the numbers of `halves.KINDS`. Rules are float32,
``(N, columns)``, a row per model; the number of columns is the form of the mask:

    WHOLE   factor: of all entries of the task vector
    PLAIN   factor, low: entries smaller than ``low`` become 0
    SMOOTH  factor, low, high, fraction: those smaller than ``high`` are multiplied by the fraction
    EXACT   factor, low, high, and the bits of two integers, limit and factor of
            `evomerge.merging.lots`: of those smaller than ``high`` the lot drops some
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from evomerge.merging import words as at
from evomerge.merging.halves import KINDS as KINDS
from evomerge.merging.halves import Floats, load, store
from evomerge.merging.lanes import EXACT, PLAIN, SMOOTH, WHOLE
from evomerge.merging.merge_words import adding, electing, keeping
from evomerge.merging.stored import dtypes

UNROLLED = 8
"""More models than this go through strips."""

WRITTEN_OUT = dtypes()
"""Other dtypes do too."""

_STRIP = 128
"""Entries in flight: what is kept of them between two models stays in a core's nearest cache."""

_NEAR, _FAR = 512, 2048
"""Bytes ahead of their use at which memory is asked for: the best of 256 to 8192, measured."""

_LANES, _LINE = 16, 64
"""Words of 32 bits in a cache line; its bytes."""

_LINES = 8
"""Lines of words whose terms wait for their election in the nearest cache."""

_add_line, _add_word = adding(_LANES), adding(1)
_keep_line, _keep_word = keeping(_LANES), keeping(1)
_elect_line, _elect_word = electing(_LANES), electing(1)

_16 = np.uint32(16)
_13 = np.uint32(13)
_TOP = np.uint32(0x80000000)
_ZERO = np.float32(0)
_NO_LOT = np.uint32(0)

Integers = NDArray[np.int64]
Nones = tuple[None, ...]
"""As long as something is: what numba must know when it compiles."""


def _hashed(place: Any, key: Any, rules: Any) -> Any:
    """What the models' lots are made of, as `evomerge.merging.lots`; 0 where none is drawn."""


@overload(_hashed, strict=False)
def _typed_hashed(place: Any, key: Any, rules: Any) -> Any:
    if rules.count == 0 or rules[0].count != EXACT:
        return lambda place, key, rules: _NO_LOT

    def drawn(place: Any, key: Any, rules: Any) -> Any:
        bits = np.uint32(np.uint32(place) ^ np.uint32(key))
        bits = np.uint32(np.uint32(bits ^ np.uint32(bits >> _16)) * np.uint32(0x85EBCA6B))
        bits = np.uint32(np.uint32(bits ^ np.uint32(bits >> _13)) * np.uint32(0xC2B2AE35))
        return np.uint32(bits ^ np.uint32(bits >> _16))

    return drawn


def _term(vector: Any, rule: Any, hashed: Any) -> Any:
    """Whether an entry of a task vector is dropped, and its term in the sum. NaN stays NaN."""


@overload(_term, strict=False)
def _typed_term(vector: Any, rule: Any, hashed: Any) -> Any:
    if rule.count == WHOLE:
        return lambda vector, rule, hashed: (False, vector * rule[0])
    if rule.count == PLAIN:
        return lambda vector, rule, hashed: (abs(vector) < rule[1], vector * rule[0])

    def smooth(vector: Any, rule: Any, hashed: Any) -> Any:
        size = abs(vector)
        thinned = vector * rule[3] if size < rule[2] else vector
        return size < rule[1], thinned * rule[0]

    def exact(vector: Any, rule: Any, hashed: Any) -> Any:
        size = abs(vector)
        lost = np.uint32(hashed * at.as_bits(rule[4])) >= at.as_bits(rule[3])
        return size < (rule[2] if lost else rule[1]), vector * rule[0]

    return smooth if rule.count == SMOOTH else exact


@at.compiled
def _plus(total: np.float32, vector: np.float32, rule: Any, hashed: Any) -> Any:
    dropped, term = _term(vector, rule, hashed)
    return total if dropped else total + term


@at.compiled
def _kept(vector: np.float32, rule: Any, hashed: Any) -> Any:
    dropped, term = _term(vector, rule, hashed)
    return _ZERO if dropped else term


@at.compiled
def _joined(mass: np.float32, weight: np.float32, term: np.float32, rule: Any, side: Any) -> Any:
    size = at.as_float(np.uint32(at.as_bits(term) ^ side))
    if size > _ZERO:
        return mass + size, weight + abs(rule[0])
    return mass, weight


@at.compiled
def _mean(total: np.float32, mass: np.float32, weight: np.float32) -> Any:
    """That on the side of the total; 0 where there is none, NaN where the total is."""
    side = np.uint32(at.as_bits(total) & _TOP)
    mean = at.as_float(np.uint32(at.as_bits(mass / weight) ^ side))
    return mean if total < _ZERO or total > _ZERO else total


@at.compiled
def add_words(
    out: int,
    addresses: Integers,
    rules: Floats,
    words: int,
    key: int,
    start: int,
    sources: Nones,
    columns: Nones,
    kind: Nones,
) -> None:
    """The plain sum of `merge`, of models of one dtype throughout.

    Args:
        out, addresses, rules: as for `merge`, without dtypes.
        words: of 32 bits each, from the addresses on.
        key, start: of the tensor's lots; the place of the first entry.
        sources: one for the base and for every model.
        columns: one for every column of ``rules``.
        kind: as many as the number of the dtype.
    """
    places = at.numbers_of(addresses.ctypes.data, sources)
    table = at.rows_of(rules.ctypes.data, sources[1:], columns)
    whole = words // _LANES * _LANES
    for first in range(0, whole, _LANES):
        at.fetch_near(places, 4 * first + _NEAR)
        at.fetch_far(places, 4 * first + _FAR)
        _add_line(out, places, first, table, key, start, kind)
    for j in range(whole, words):
        _add_word(out, places, j, table, key, start, kind)


@at.compiled
def _first_line(room: Any) -> Any:
    """Where a cache line begins; to be asked in the loop, for numba frees what is used no more."""
    return (room.ctypes.data + _LINE - 1) // _LINE * _LINE


@at.compiled
def elect_words(
    out: int,
    addresses: Integers,
    rules: Floats,
    scaling: np.float32,
    words: int,
    key: int,
    start: int,
    sources: Nones,
    columns: Nones,
    kind: Nones,
) -> None:
    """The election of `merge`, of models of one dtype throughout.

    Args:
        out, addresses, rules, words, key, start, sources, columns, kind: as for `add_words`.
        scaling: as for `merge`.
    """
    places = at.numbers_of(addresses.ctypes.data, sources)
    table = at.rows_of(rules.ctypes.data, sources[1:], columns)
    whole, step = words // _LANES * _LANES, 2 * len(rules) * _LINE  # of two parts at most
    terms = np.empty(_LINES * step + _LINE, np.uint8)
    for begin in range(0, whole, _LANES * _LINES):
        end, room = min(whole, begin + _LANES * _LINES), _first_line(terms)
        for first in range(begin, end, _LANES):
            at.fetch_near(places, 4 * first + _NEAR)
            at.fetch_far(places, 4 * first + _FAR)
            line = room + (first - begin) // _LANES * step
            _keep_line(line, places, first, table, key, start, kind)
        for first in range(begin, end, _LANES):
            line = room + (first - begin) // _LANES * step
            _elect_line(out, places[0], first, table, line, scaling, kind)
    for j in range(whole, words):
        _keep_word(_first_line(terms), places, j, table, key, start, kind)
        _elect_word(out, places[0], j, table, _first_line(terms), scaling, kind)


@at.compiled
def merge(
    kinds: Integers,
    addresses: Integers,
    rules: Floats,
    scaling: np.float32 | None,
    start: int,
    stop: int,
    key: int,
    origin: int,
    columns: Nones,
) -> None:
    """``out = base + sum term``, or with signs elected ``base + scaling * mean of those agreeing``.

    As `evomerge.merging.fusion.add_sum` and `add_elected`.

    Args:
        kinds, addresses: of the output, the base and the models, ``(N + 2,)``.
        rules: ``(N, columns)``.
        scaling: float32, or nothing for the plain sum.
        start, stop: entries of these tensors.
        key, origin: of the tensor's lots; the place in it of the arrays' first entry.
        columns: as many as ``rules`` has.
    """
    base, model = np.empty(_STRIP, np.float32), np.empty(_STRIP, np.float32)
    total = np.empty(_STRIP, np.float32)
    for first in range(start, stop, _STRIP):
        count = min(_STRIP, stop - first)
        load(kinds[1], addresses[1], first, base, count)
        for j in range(count):
            total[j] = base[j] + _ZERO if scaling is None else _ZERO
        for i in range(len(rules)):
            rule = at.rows_of(rules[i:].ctypes.data, (None,), columns)
            load(kinds[i + 2], addresses[i + 2], first, model, count)
            for j in range(count):
                hashed = _hashed(origin + first + j, key, rule)
                total[j] = _plus(total[j], model[j] - base[j], rule[0], hashed)
        if scaling is not None:
            _elect(
                kinds[2:],
                addresses[2:],
                rules,
                scaling,
                first,
                base,
                total,
                count,
                key,
                origin,
                columns,
            )
        store(kinds[0], addresses[0], first, total, count)


@at.compiled
def _elect(
    kinds: Integers,
    addresses: Integers,
    rules: Floats,
    scaling: np.float32,
    first: int,
    base: Floats,
    total: Floats,
    count: int,
    key: int,
    origin: int,
    columns: Nones,
) -> None:
    """Turn the sums of a strip into the merge, reading its models a second time."""
    model = np.empty(_STRIP, np.float32)
    mass, weight = np.zeros(_STRIP, np.float32), np.zeros(_STRIP, np.float32)
    for i in range(len(rules)):
        rule = at.rows_of(rules[i:].ctypes.data, (None,), columns)
        load(kinds[i], addresses[i], first, model, count)
        for j in range(count):
            side = np.uint32(at.as_bits(total[j]) & _TOP)
            term = _kept(model[j] - base[j], rule[0], _hashed(origin + first + j, key, rule))
            mass[j], weight[j] = _joined(mass[j], weight[j], term, rule[0], side)
    for j in range(count):
        total[j] = base[j] + _ZERO + _mean(total[j], mass[j], weight[j]) * scaling
