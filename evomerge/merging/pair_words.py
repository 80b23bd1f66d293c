"""The merge of words of two bfloat16 entries, written for the vectors of the machine.

Words are taken apart by a shift and a mask: nothing is ever brought into another order. All is in
registers from the models to the output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba.core
import numba.extending

from evomerge.merging.lanes import EXACT, LONG, Lanes, Rule, cgutils

types: Any = numba.core.types

Entry = Callable[[Any, list[Any], list[Rule], Any], Any]
"""Base, models, rules and what lots are made of to the merged entries, float32 all of them."""


def adding(lanes: int) -> Any:
    """``(out, places, index, rules, key, start)``: the plain sum of `kernels.merge`.

    Of ``lanes`` words from this index on. ``places`` are the addresses of base and models,
    ``start`` is the place in the tensor of the first entry of all.
    """

    def typed(
        typingctx: Any, out: Any, places: Any, index: Any, rules: Any, key: Any, start: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            tile = Lanes(builder, lanes)

            def entry(base: Any, models: list[Any], rules: list[Rule], hashed: Any) -> Any:
                total = tile.positive_zero(base)
                for model, rule in zip(models, rules, strict=True):
                    total = tile.plus(total, builder.fsub(model, base), rule, hashed)
                return total

            _merge(tile, entry, *args)
            return context.get_dummy_value()

        return types.void(types.int64, places, *[types.int64, rules, types.int64, types.int64]), (
            generate
        )

    return numba.extending.intrinsic(typed)


def electing(lanes: int) -> Any:
    """``(out, places, index, rules, key, start, scaling)``: the election of `kernels.merge`.

    Otherwise as `adding`.
    """

    def typed(
        typingctx: Any,
        out: Any,
        places: Any,
        index: Any,
        rules: Any,
        key: Any,
        start: Any,
        scaling: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            tile = Lanes(builder, lanes)
            scaling = tile.everywhere(args[-1])

            def entry(base: Any, models: list[Any], rules: list[Rule], hashed: Any) -> Any:
                terms = [
                    tile.kept(builder.fsub(model, base), rule, hashed)
                    for model, rule in zip(models, rules, strict=True)
                ]
                mean = builder.fmul(_elected(tile, terms, rules), scaling)
                return builder.fadd(tile.positive_zero(base), mean)

            _merge(tile, entry, *args[:-1])
            return context.get_dummy_value()

        numbers = types.int64, rules, types.int64, types.int64, types.float32
        return types.void(types.int64, places, *numbers), generate

    return numba.extending.intrinsic(typed)


def _elected(tile: Lanes, terms: list[Any], rules: list[Rule]) -> Any:
    """The mean of the terms on the side of their sum; the sum itself where it is 0 or NaN."""
    b, zero = tile.builder, tile.number(0.0)
    total = mass = weight = zero
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


def _merge(
    tile: Lanes, entry: Entry, out: Any, places: Any, index: Any, rules: Any, key: Any, start: Any
) -> None:
    """Both entries of each word."""
    b = tile.builder
    table = [tile.rule(rule) for rule in cgutils.unpack_tuple(b, rules)]

    def at(address: Any) -> Any:
        where = b.add(address, b.shl(index, LONG(2)))
        return b.inttoptr(where, tile.words.as_pointer())

    words = [b.load(at(address), align=2) for address in cgutils.unpack_tuple(b, places)]
    halves = []
    for second, half in enumerate((tile.lower, tile.upper)):
        hashed = None
        if table and len(table[0]) == EXACT:
            place = b.add(start, b.add(b.shl(index, LONG(1)), LONG(second)))
            hashed = tile.hashed(place, key, 2)
        base, *models = map(half, words)
        halves.append(tile.rounded(entry(base, models, table, hashed)))
    b.store(tile.joint(*halves), at(out), align=2)
