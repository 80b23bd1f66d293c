"""The merge of words of two bfloat16 entries, written for the vectors of the machine.

Words are taken apart by a shift and a mask: nothing is ever brought into another order. All is in
registers from the models to the output, or in an election from the models to their terms and from
these to the output: processors look as far ahead as one half of it reaches, not as both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numba.core
import numba.extending

from evomerge.merging.lanes import EXACT, LONG, Lanes, Rule, cgutils

types: Any = numba.core.types

Halves = Iterator[tuple[list[Any], Any]]
"""First, then second entries of words, base before models, and what their lots are made of."""


def adding(lanes: int) -> Any:
    """``(out, places, index, rules, key, start)``: the plain sum of `kernels.merge`.

    Of ``lanes`` words from this index on. ``places`` are the addresses of base and models,
    ``start`` is the place in the tensor of the first entry of all.
    """

    def typed(
        typingctx: Any, out: Any, places: Any, index: Any, rules: Any, key: Any, start: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, places, index, rules, key, start = args
            tile, totals = Lanes(builder, lanes), []
            table = _table(tile, rules)
            for (base, *models), hashed in _halves(tile, places, index, table, key, start):
                total = tile.positive_zero(base)
                for model, rule in zip(models, table, strict=True):
                    total = tile.plus(total, builder.fsub(model, base), rule, hashed)
                totals.append(total)
            _put(tile, totals, out, index)
            return context.get_dummy_value()

        return types.void(types.int64, places, *[types.int64, rules, types.int64, types.int64]), (
            generate
        )

    return numba.extending.intrinsic(typed)


def keeping(lanes: int) -> Any:
    """``(room, places, index, rules, key, start)``: the terms of the election of `kernels.merge`.

    Otherwise as `adding`. ``room`` is the address of ``(2, N, lanes)`` float32, a multiple of the
    bytes of a row: the terms of the words' first entries, model after model, then of the second.
    """

    def typed(
        typingctx: Any, room: Any, places: Any, index: Any, rules: Any, key: Any, start: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            room, places, index, rules, key, start = args
            tile = Lanes(builder, lanes)
            table, slots = _table(tile, rules), _slots(tile, room)
            for (base, *models), hashed in _halves(tile, places, index, table, key, start):
                for model, rule in zip(models, table, strict=True):
                    term = tile.kept(builder.fsub(model, base), rule, hashed)
                    builder.store(term, next(slots), align=4 * lanes)
            return context.get_dummy_value()

        return types.void(types.int64, places, *[types.int64, rules, types.int64, types.int64]), (
            generate
        )

    return numba.extending.intrinsic(typed)


def electing(lanes: int) -> Any:
    """``(out, base, index, rules, room, scaling)``: the election among the terms of `keeping`."""

    def typed(
        typingctx: Any, out: Any, base: Any, index: Any, rules: Any, room: Any, scaling: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, base, index, rules, room, scaling = args
            tile, totals = Lanes(builder, lanes), []
            table, slots = _table(tile, rules), _slots(tile, room)
            scaling, word = tile.everywhere(scaling), _word(tile, base, index)
            for half in (tile.lower, tile.upper):
                terms = [builder.load(next(slots), align=4 * lanes) for _ in table]
                mean = builder.fmul(_elected(tile, terms, table), scaling)
                totals.append(builder.fadd(tile.positive_zero(half(word)), mean))
            _put(tile, totals, out, index)
            return context.get_dummy_value()

        numbers = types.int64, types.int64, types.int64, rules, types.int64, types.float32
        return types.void(*numbers), generate

    return numba.extending.intrinsic(typed)


def _elected(tile: Lanes, terms: list[Any], rules: list[Rule]) -> Any:
    """The mean of the terms on the side of their sum; the sum itself where it is 0 or NaN."""
    b, zero = tile.builder, tile.number(0.0)
    total, mass, weight = tile.number(-0.0), zero, zero  # which costs no addition
    for term in terms:
        total = b.fadd(total, term)
    side = tile.side(total)
    for term, rule in zip(terms, rules, strict=True):
        size = tile.turned(term, side)
        agrees = b.fcmp_ordered(">", size, zero)
        mass = b.select(agrees, b.fadd(mass, size), mass)
        weight = b.select(agrees, b.fadd(weight, tile.size(rule[0])), weight)
    mean = tile.turned(b.fdiv(mass, weight), side)
    return b.select(b.fcmp_ordered("!=", total, zero), mean, total)


def _table(tile: Lanes, rules: Any) -> list[Rule]:
    return [tile.rule(rule) for rule in cgutils.unpack_tuple(tile.builder, rules)]


def _halves(
    tile: Lanes, places: Any, index: Any, table: list[Rule], key: Any, start: Any
) -> Halves:
    b = tile.builder
    words = [_word(tile, address, index) for address in cgutils.unpack_tuple(b, places)]
    for second, half in enumerate((tile.lower, tile.upper)):
        hashed = None
        if table and len(table[0]) == EXACT:
            place = b.add(start, b.add(b.shl(index, LONG(1)), LONG(second)))
            hashed = tile.hashed(place, key, 2)
        yield [half(word) for word in words], hashed


def _slots(tile: Lanes, room: Any) -> Iterator[Any]:
    """Pointers to one vector after another."""
    b = tile.builder
    for i in itertools.count():
        yield b.inttoptr(b.add(room, LONG(4 * tile.count * i)), tile.floats.as_pointer())


def _at(tile: Lanes, address: Any, index: Any) -> Any:
    where = tile.builder.add(address, tile.builder.shl(index, LONG(2)))
    return tile.builder.inttoptr(where, tile.words.as_pointer())


def _word(tile: Lanes, address: Any, index: Any) -> Any:
    return tile.builder.load(_at(tile, address, index), align=2)


def _put(tile: Lanes, halves: list[Any], out: Any, index: Any) -> None:
    """Both entries of each word, rounded."""
    word = tile.joint(*map(tile.rounded, halves))
    tile.builder.store(word, _at(tile, out, index), align=2)
