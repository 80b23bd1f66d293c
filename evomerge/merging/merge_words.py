"""The merge of words of one dtype throughout, written for the vectors of the machine.

All is in registers from the models to the output, or in an election from the models to their terms
and from these to the output: processors look as far ahead as one half of it reaches, not as both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numba.core
import numba.extending

from evomerge.merging.lanes import EXACT, LONG, Lanes, Rule, cgutils
from evomerge.merging.stored import Pairs, Runs, stored

types: Any = numba.core.types

Words = Pairs | Runs
Parts = Iterator[tuple[tuple[Any, ...], Any]]
"""Part by part the entries of words, base before models, and what their lots are made of."""


def adding(lanes: int) -> Any:
    """``(out, places, index, rules, key, start, kind)``: the plain sum of `kernels.merge`.

    Of ``lanes`` words from this index on. ``places`` are the addresses of base and models,
    ``start`` is the place in the tensor of the first entry of all. ``kind`` is a tuple as long as
    the number of the dtype in `halves.KINDS`.
    """

    def write(tile: Words, table: list[Rule], parts: Parts, out: Any, index: Any) -> None:
        totals = []
        for (base, *models), hashed in parts:
            total = tile.positive_zero(base)
            for model, rule in zip(models, table, strict=True):
                total = tile.plus(total, tile.builder.fsub(model, base), rule, hashed)
            totals.append(total)
        tile.put(totals, _at(tile, out, index))

    return _reading(lanes, write)


def keeping(lanes: int) -> Any:
    """``(room, places, index, rules, key, start, kind)``: the terms of an election, see `kernels`.

    Otherwise as `adding`. ``room`` is the address of ``(parts, N, lanes)`` float32, a multiple
    of the bytes of a row: the terms of the words' first part, model after model, then of the next.
    """

    def write(tile: Words, table: list[Rule], parts: Parts, room: Any, index: Any) -> None:
        slots = _slots(tile, room)
        for (base, *models), hashed in parts:
            for model, rule in zip(models, table, strict=True):
                term = tile.kept(tile.builder.fsub(model, base), rule, hashed)
                tile.builder.store(term, next(slots), align=4 * lanes)

    return _reading(lanes, write)


def _reading(lanes: int, write: Callable[[Words, list[Rule], Parts, Any, Any], None]) -> Any:
    """The function whose code is what ``write`` makes of the parts of its words, at an address."""

    def typed(
        typingctx: Any,
        address: Any,
        places: Any,
        index: Any,
        rules: Any,
        key: Any,
        start: Any,
        kind: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address, places, index, rules, key, start, _ = args
            tile = stored(kind.count, builder, lanes)
            table = _table(tile, rules)
            write(tile, table, _parts(tile, places, index, table, key, start), address, index)
            return context.get_dummy_value()

        numbers = types.int64, places, types.int64, rules, types.int64, types.int64, kind
        return types.void(*numbers), generate

    return numba.extending.intrinsic(typed)


def electing(lanes: int) -> Any:
    """``(out, base, index, rules, room, scaling, kind)``: the election among `keeping`'s terms."""

    def typed(
        typingctx: Any,
        out: Any,
        base: Any,
        index: Any,
        rules: Any,
        room: Any,
        scaling: Any,
        kind: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, base, index, rules, room, scaling, _ = args
            tile, totals = stored(kind.count, builder, lanes), []
            table, slots = _table(tile, rules), _slots(tile, room)
            scaling = tile.everywhere(scaling)
            for entries in tile.entries(_at(tile, base, index)):
                terms = [builder.load(next(slots), align=4 * lanes) for _ in table]
                mean = builder.fmul(_elected(tile, terms, table), scaling)
                totals.append(builder.fadd(tile.positive_zero(entries), mean))
            tile.put(totals, _at(tile, out, index))
            return context.get_dummy_value()

        numbers = types.int64, types.int64, types.int64, rules, types.int64, types.float32, kind
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


def _parts(tile: Words, places: Any, index: Any, table: list[Rule], key: Any, start: Any) -> Parts:
    b, hashed = tile.builder, None
    addresses = [_at(tile, address, index) for address in cgutils.unpack_tuple(b, places)]
    for part, entries in enumerate(zip(*map(tile.entries, addresses), strict=True)):
        if table and len(table[0]) == EXACT:
            first = b.add(b.mul(index, LONG(tile.parts)), LONG(tile.begin(part)))
            hashed = tile.hashed(b.add(start, first), key, tile.step)
        yield entries, hashed


def _slots(tile: Lanes, room: Any) -> Iterator[Any]:
    """Pointers to one vector after another."""
    b = tile.builder
    for i in itertools.count():
        yield b.inttoptr(b.add(room, LONG(4 * tile.count * i)), tile.floats.as_pointer())


def _at(tile: Lanes, address: Any, index: Any) -> Any:
    """The address of a word."""
    return tile.builder.add(address, tile.builder.shl(index, LONG(2)))
