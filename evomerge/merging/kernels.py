"""The merge as compiled loops: one pass over base and models, with nothing stored in between.

Every loop does to an entry what the torch code beside it does (`evomerge.merging.entries`,
`evomerge.merging.fusion`), with the same roundings in the same order, so both give the same bits;
only the payload of NaN may differ. Compiled by numba at the first call and kept on disk; run
without the interpreter's lock, so that threads can share the work. Importing this loads numba.

Up to `UNROLLED` models in bfloat16 throughout are written out, with everything in registers; any
number in any mixture of dtypes goes through strips in a core's nearest cache. Numba compiles a loop
for each number of models and each form of rule that it meets.

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
from evomerge.merging.halves import Floats, load, rounded, store

WHOLE, PLAIN, SMOOTH, EXACT = 1, 2, 4, 5
UNROLLED = 8

_STRIP = 128
"""Entries in flight: what is kept of them between two models stays in a core's nearest cache."""

_NEAR, _FAR = 512, 2048
"""Bytes ahead of their use at which memory is asked for: the best of 256 to 8192, measured."""

_BLOCK = 16 * at.FETCHED_LINES
"""Words of 32 bits between two such requests."""

_16 = np.uint32(16)
_13 = np.uint32(13)
_UPPER = np.uint32(0xFFFF0000)
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


def _sum(total: Any, base: Any, entries: Any, rules: Any, hashed: Any) -> Any:
    """The total and the terms of all models, added in their order."""


@overload(_sum, strict=False)
def _typed_sum(total: Any, base: Any, entries: Any, rules: Any, hashed: Any) -> Any:
    if entries.count == 0:
        return lambda total, base, entries, rules, hashed: total

    def more(total: Any, base: Any, entries: Any, rules: Any, hashed: Any) -> Any:
        more = _plus(total, entries[0] - base, rules[0], hashed)
        return _sum(more, base, entries[1:], rules[1:], hashed)

    return more


def _sum_of(total: Any, terms: Any) -> Any:
    """The total and the terms, added in their order."""


@overload(_sum_of, strict=False)
def _typed_sum_of(total: Any, terms: Any) -> Any:
    if terms.count == 0:
        return lambda total, terms: total
    return lambda total, terms: _sum_of(total + terms[0], terms[1:])


def _agreeing(mass: Any, weight: Any, terms: Any, rules: Any, side: Any) -> Any:
    """Two sums over the terms on one side of 0: their sizes, and their factors' sizes.

    Args:
        side: the sign bit of that side.
    """


@overload(_agreeing, strict=False)
def _typed_agreeing(mass: Any, weight: Any, terms: Any, rules: Any, side: Any) -> Any:
    if terms.count == 0:
        return lambda mass, weight, terms, rules, side: (mass, weight)

    def more(mass: Any, weight: Any, terms: Any, rules: Any, side: Any) -> Any:
        found = _joined(mass, weight, terms[0], rules[0], side)
        return _agreeing(found[0], found[1], terms[1:], rules[1:], side)

    return more


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
def _elected(base: np.float32, terms: Any, rules: Any, scaling: np.float32) -> Any:
    total = _sum_of(_ZERO, terms)
    mass, weight = _agreeing(_ZERO, _ZERO, terms, rules, np.uint32(at.as_bits(total) & _TOP))
    return base + _ZERO + _mean(total, mass, weight) * scaling


@at.compiled
def _joint(lower: np.float32, upper: np.float32) -> Any:
    """Two bfloat16 numbers in one word."""
    return np.uint32(np.uint32(rounded(lower) >> _16) | np.uint32(rounded(upper) & _UPPER))


@at.compiled
def _add_pairs(
    out: int, places: Any, rules: Any, key: int, start: int, first: int, last: int
) -> None:
    for j in range(first, last):
        entries, hashed = at.lower_of(places, j), _hashed(start + 2 * j, key, rules)
        lower = _sum(entries[0] + _ZERO, entries[0], entries[1:], rules, hashed)
        entries, hashed = at.upper_of(places, j), _hashed(start + 2 * j + 1, key, rules)
        upper = _sum(entries[0] + _ZERO, entries[0], entries[1:], rules, hashed)
        at.put_word(out, j, _joint(lower, upper))


@at.compiled
def add_bf16(
    out: int,
    addresses: Integers,
    rules: Floats,
    pairs: int,
    key: int,
    start: int,
    sources: Nones,
    columns: Nones,
) -> None:
    """The plain sum of `merge`, of models in bfloat16 throughout, all in registers.

    Words of two entries are read, and taken apart by a shift and a mask: nothing is ever brought
    into another order.

    Args:
        out, addresses, rules: as for `merge`, without dtypes.
        pairs: half the number of entries, from the addresses on.
        key, start: of the tensor's lots; the place of the first entry.
        sources: one for the base and for every model.
        columns: one for every column of ``rules``.
    """
    places = at.numbers_of(addresses.ctypes.data, sources)
    table = at.rows_of(rules.ctypes.data, sources[1:], columns)
    whole = pairs // _BLOCK * _BLOCK
    for first in range(0, whole, _BLOCK):
        at.fetch_near(places, 4 * first + _NEAR)
        at.fetch_far(places, 4 * first + _FAR)
        _add_pairs(out, places, table, key, start, first, first + _BLOCK)
    _add_pairs(out, places, table, key, start, whole, pairs)


def _keep_terms(rows: Any, j: int, base: Any, entries: Any, rules: Any, hashed: Any) -> None:
    """Put the terms of all models where `kept_of` finds them."""


@overload(_keep_terms, strict=False)
def _typed_keep_terms(rows: Any, j: Any, base: Any, entries: Any, rules: Any, hashed: Any) -> Any:
    if entries.count == 0:
        return lambda rows, j, base, entries, rules, hashed: None

    def more(rows: Any, j: Any, base: Any, entries: Any, rules: Any, hashed: Any) -> None:
        at.keep(rows[0], j, _kept(entries[0] - base, rules[0], hashed))
        _keep_terms(rows[1:], j, base, entries[1:], rules[1:], hashed)

    return more


@at.compiled
def elect_bf16(
    out: int,
    addresses: Integers,
    rules: Floats,
    scaling: np.float32,
    pairs: int,
    key: int,
    start: int,
    sources: Nones,
    columns: Nones,
) -> None:
    """The election of `merge`, of models in bfloat16 throughout.

    In two steps over each strip: an entry of all at once is too long a chain of operations for a
    processor to begin the next one meanwhile.

    Args:
        out, addresses, rules, pairs, key, start, sources, columns: as for `add_bf16`.
        scaling: as for `merge`.
    """
    terms = np.empty(
        (len(sources) - 1, 2, _STRIP), np.float32
    )  # lives until the call below is over
    _elect_strips(out, addresses, rules, scaling, pairs, key, start, sources, columns, terms)


@at.compiled
def _elect_strips(
    out: int,
    addresses: Integers,
    rules: Floats,
    scaling: np.float32,
    pairs: int,
    key: int,
    start: int,
    sources: Nones,
    columns: Nones,
    terms: Floats,
) -> None:
    places = at.numbers_of(addresses.ctypes.data, sources)
    table = at.rows_of(rules.ctypes.data, sources[1:], columns)
    rows = np.int64(terms.ctypes.data) + 8 * _STRIP * np.arange(len(terms))
    lowers = at.numbers_of(rows.ctypes.data, sources[1:])
    rows += 4 * _STRIP
    uppers = at.numbers_of(rows.ctypes.data, sources[1:])
    for first in range(0, pairs, _STRIP):
        count = min(_STRIP, pairs - first)
        for ahead in range(4 * first, 4 * (first + count), 64 * at.FETCHED_LINES):
            at.fetch_near(places, ahead + _NEAR)
            at.fetch_far(places, ahead + _FAR)
        for j in range(count):
            place = start + 2 * (first + j)
            entries, hashed = at.lower_of(places, first + j), _hashed(place, key, table)
            _keep_terms(lowers, j, entries[0], entries[1:], table, hashed)
            entries, hashed = at.upper_of(places, first + j), _hashed(place + 1, key, table)
            _keep_terms(uppers, j, entries[0], entries[1:], table, hashed)
        for j in range(count):
            base = at.lower_of(places[:1], first + j)[0]
            lower = _elected(base, at.kept_of(lowers, j), table, scaling)
            base = at.upper_of(places[:1], first + j)[0]
            upper = _elected(base, at.kept_of(uppers, j), table, scaling)
            at.put_word(out, first + j, _joint(lower, upper))


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
