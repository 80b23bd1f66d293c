"""The inner loop over the ranks of factors, written for the vectors of the machine.

A tile is some rows of a panel's columns. The sums of a model stay in registers over all ranks,
which numba's own loops do not achieve: sixteen of them, since a sum waits for the one before it.
Products are rounded before they are added, as everywhere.

A panel holds its even columns before the odd ones, as words of two bfloat16 entries fall apart.
"""

from __future__ import annotations

from typing import Any

import numba.core
import numba.extending
from llvmlite import ir

from evomerge.merging.lanes import FLOAT, HALF, LONG, SMOOTH, Lanes, cgutils
from evomerge.merging.low_rank import PANEL_COLUMNS, PANEL_ROWS

types: Any = numba.core.types

RECORD = 5
"""Numbers of a model in the table of places: left, its stride, right, its stride, rank."""
RULE = 4
"""Numbers of a model in the table of rules: factor, low, high, fraction."""

_PAIRS = PANEL_COLUMNS // 2


class _Tile(Lanes):
    """Writes the code of one tile, or of a single entry.

    Args:
        builder: of llvmlite.
        rows: of the tile; 0 for an entry.
        place: the row and the column where it begins.
    """

    def __init__(self, builder: Any, rows: int, place: tuple[Any, Any]) -> None:
        super().__init__(builder, _PAIRS if rows else 1)
        self.rows, self.parts = max(1, rows), 2 if rows else 1
        self.place = place

    def at(self, kind: Any, address: Any, offset: Any = 0) -> Any:
        """A pointer some bytes behind an address."""
        offset = LONG(offset) if isinstance(offset, int) else offset
        return self.builder.inttoptr(self.builder.add(address, offset), kind.as_pointer())

    def integer(self, address: Any, place: int) -> Any:
        return self.builder.load(self.at(LONG, address, 8 * place))

    def entry(self, address: Any, place: int) -> Any:
        """One float32 in all lanes."""
        return self.everywhere(self.builder.load(self.at(FLOAT, address, 4 * place)))

    def begins(self, record: Any) -> tuple[Any, Any]:
        """Where the tile's first numbers lie in a model's panels."""
        b, (row, column) = self.builder, self.place
        pair = b.udiv(b.urem(column, LONG(PANEL_COLUMNS)), LONG(2))
        lane = b.add(pair, b.mul(b.urem(column, LONG(2)), LONG(_PAIRS)))
        found = []
        for place, line, height, within in (
            (0, row, PANEL_ROWS, b.urem(row, LONG(PANEL_ROWS))),
            (2, column, PANEL_COLUMNS, lane),
        ):
            panel = b.mul(b.udiv(line, LONG(height)), self.integer(record, place + 1))
            first = b.add(self.integer(record, place), panel)
            found.append(b.add(first, b.mul(within, LONG(4))))
        return found[0], found[1]

    def slots(self, nothing: float) -> list[Any]:
        """Sums of nothing: one for each part of each row.

        Args:
            nothing: -0.0, which no sum shows, or 0.0, with which none is -0.
        """
        found = [
            cgutils.alloca_once(self.builder, self.floats) for _ in range(self.rows * self.parts)
        ]
        for slot in found:
            self.builder.store(self.number(nothing), slot)
        return found

    def add_products(self, slots: list[Any], record: Any) -> None:
        """Add the products of a model's factors, rank by rank."""
        b, (left, right) = self.builder, self.begins(record)
        # Another name of the same address: a number that is loaded for each product costs nothing,
        # one that is loaded for two of them half a product.
        kind = ir.FunctionType(LONG, [LONG])
        lefts = [left, b.asm(kind, "", "=r,0", [left], side_effect=False)][: self.parts]
        with cgutils.for_range(b, self.integer(record, 4)) as loop:
            line = b.add(right, b.mul(loop.index, LONG(4 * PANEL_COLUMNS)))
            for part, first in enumerate(lefts):
                column = b.add(first, b.mul(loop.index, LONG(4 * PANEL_ROWS)))
                numbers = b.load(self.at(self.floats, line, 4 * _PAIRS * part), align=4)
                for row, slot in enumerate(slots[part :: self.parts]):
                    term = b.fmul(self.entry(column, row), numbers)
                    b.store(b.fadd(b.load(slot), term), slot)

    def rows_of(self, slots: list[Any]) -> list[list[Any]]:
        """What they hold, row by row."""
        found = [self.builder.load(slot) for slot in slots]
        return [found[i : i + self.parts] for i in range(0, len(found), self.parts)]

    def loaded(self, address: Any) -> list[Any]:
        """The bfloat16 entries of a row as float32."""
        b = self.builder
        if self.parts == 2:
            word = b.load(self.at(self.words, address), align=2)
            return [self.lower(word), self.upper(word)]
        half = b.load(self.at(ir.VectorType(HALF, 1), address), align=2)
        return [self.lower(b.zext(half, self.words))]

    def put(self, values: list[Any], address: Any) -> None:
        """A row rounded to bfloat16."""
        b, halves = self.builder, [self.rounded(value) for value in values]
        if self.parts == 2:
            b.store(self.joint(*halves), self.at(self.words, address), align=2)
            return
        half = b.trunc(b.lshr(halves[0], self.word(16)), ir.VectorType(HALF, 1))
        b.store(half, self.at(ir.VectorType(HALF, 1), address), align=2)

    def put_floats(self, values: list[Any], address: Any) -> None:
        """A row as float32, in the order of the columns."""
        b = self.builder
        for part in range(self.parts):
            lanes = range(part * self.count, (part + 1) * self.count)
            order = [lane // 2 + lane % 2 * self.count for lane in lanes]
            mask = ir.Constant(self.words, order if self.parts == 2 else [0])
            line = b.shuffle_vector(values[0], values[-1], mask)
            b.store(line, self.at(self.floats, address, 4 * self.count * part), align=4)


def filling(rows: int) -> Any:
    """``(out, stride, row, column, record)``: a tile of a model's task vector, in float32."""

    def typed(typingctx: Any, out: Any, stride: Any, row: Any, column: Any, record: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, stride, row, column, record = args
            tile = _Tile(builder, rows, (row, column))
            slots = tile.slots(-0.0)
            tile.add_products(slots, record)
            for i, values in enumerate(tile.rows_of(slots)):
                tile.put_floats(values, builder.add(out, builder.mul(stride, LONG(i))))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return numba.extending.intrinsic(typed)


def summing(rows: int) -> Any:
    """``(out, base, stride, row, column, records, models)``: a tile of the sum on the base."""

    def typed(
        typingctx: Any,
        out: Any,
        base: Any,
        stride: Any,
        row: Any,
        column: Any,
        records: Any,
        models: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, base, stride, row, column, records, models = args
            b, tile = builder, _Tile(builder, rows, (row, column))
            slots = tile.slots(0.0)
            with cgutils.for_range(b, models) as loop:
                tile.add_products(slots, b.add(records, b.mul(loop.index, LONG(8 * RECORD))))
            for i, values in enumerate(tile.rows_of(slots)):
                step = b.mul(stride, LONG(i))
                stored = tile.loaded(b.add(base, step))
                merged = [b.fadd(x, y) for x, y in zip(stored, values, strict=True)]
                tile.put(merged, b.add(out, step))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return numba.extending.intrinsic(typed)


def adding(rows: int) -> Any:
    """As `summing`, with ``rules`` behind the records: of thinned task vectors, one by one."""

    def typed(
        typingctx: Any,
        out: Any,
        base: Any,
        stride: Any,
        row: Any,
        column: Any,
        records: Any,
        rules: Any,
        models: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, base, stride, row, column, records, rules, models = args
            b, tile = builder, _Tile(builder, rows, (row, column))
            steps = [b.mul(stride, LONG(i)) for i in range(tile.rows)]
            totals = tile.slots(0.0)
            entries = [entry for step in steps for entry in tile.loaded(b.add(base, step))]
            for total, entry in zip(totals, entries, strict=True):
                b.store(tile.positive_zero(entry), total)
            with cgutils.for_range(b, models) as loop:
                slots = tile.slots(-0.0)
                tile.add_products(slots, b.add(records, b.mul(loop.index, LONG(8 * RECORD))))
                numbers = b.add(rules, b.mul(loop.index, LONG(4 * RULE)))
                rule = [tile.entry(numbers, i) for i in range(SMOOTH)]
                for total, slot in zip(totals, slots, strict=True):
                    b.store(tile.plus(b.load(total), b.load(slot), rule), total)
            for values, step in zip(tile.rows_of(totals), steps, strict=True):
                tile.put(values, b.add(out, step))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return numba.extending.intrinsic(typed)
