"""The inner loop over the ranks of factors, written for the vectors of the machine.

A tile is some rows of some columns. Its sums stay in registers over all models and ranks, which
numba's own loops do not achieve. Products are rounded before they are added, as everywhere.

Numba keeps compiled loops on disk until the file that they stand in changes, and does not look
here: after a change here or in `evomerge.merging.lanes`, delete ``evomerge/merging/__pycache__``.
"""

from __future__ import annotations

from typing import Any

import numba.core
import numba.extending
from llvmlite import ir

from evomerge.merging.lanes import FLOAT, HALF, LONG, SMOOTH, WHOLE, Lanes, cgutils

types: Any = numba.core.types

RECORD = 5
"""Numbers of a model in the table of places: left, its stride, right, its stride, rank."""
RULE = 4
"""Numbers of a model in the table of rules: factor, low, high, fraction."""


class _Tile(Lanes):
    """Writes the code of one tile."""

    def __init__(self, builder: Any, rows: int, lanes: int) -> None:
        super().__init__(builder, lanes)
        self.rows = rows
        self.halves = ir.VectorType(HALF, lanes)

    def at(self, kind: Any, address: Any, offset: Any = 0) -> Any:
        """A pointer some bytes behind an address."""
        offset = LONG(offset) if isinstance(offset, int) else offset
        return self.builder.inttoptr(self.builder.add(address, offset), kind.as_pointer())

    def integer(self, address: Any, place: int) -> Any:
        return self.builder.load(self.at(LONG, address, 8 * place))

    def entry(self, address: Any, place: int) -> Any:
        """One float32 in all lanes."""
        return self.everywhere(self.builder.load(self.at(FLOAT, address, 4 * place)))

    def products(self, record: Any) -> list[Any]:
        """A model's task vector: one slot per row."""
        b = self.builder
        left, left_stride, right, right_stride, rank = (self.integer(record, i) for i in range(5))
        slots = [cgutils.alloca_once(b, self.floats) for _ in range(self.rows)]
        first = b.load(self.at(self.floats, right), align=4)
        for row, slot in enumerate(slots):
            b.store(b.fmul(self.entry(left, row), first), slot)
        with cgutils.for_range(b, rank, start=LONG(1)) as loop:
            line = b.load(self.at(self.floats, right, b.mul(right_stride, loop.index)), align=4)
            column = b.add(left, b.mul(left_stride, loop.index))
            for row, slot in enumerate(slots):
                term = b.fmul(self.entry(column, row), line)
                b.store(b.fadd(b.load(slot), term), slot)
        return slots

    def loaded(self, address: Any) -> Any:
        """bfloat16 entries as float32, without -0."""
        stored = self.builder.load(self.at(self.halves, address), align=2)
        return self.positive_zero(self.lower(self.builder.zext(stored, self.words)))

    def put(self, value: Any, address: Any) -> None:
        """Rounded to bfloat16; NaN of factors can have any lower half."""
        b = self.builder
        nan = b.fcmp_unordered("uno", value, value)
        rounded = b.select(nan, self.word(0x7FC00000), self.rounded(value))
        half = b.trunc(b.lshr(rounded, self.word(16)), self.halves)
        b.store(half, self.at(self.halves, address), align=2)


def filling(rows: int, lanes: int) -> Any:
    """``(out, stride, record)``: a tile of one model's task vector, in float32."""

    def typed(typingctx: Any, out: Any, stride: Any, record: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            tile = _Tile(builder, rows, lanes)
            for row, slot in enumerate(tile.products(args[2])):
                where = tile.at(tile.floats, args[0], builder.mul(args[1], LONG(row)))
                builder.store(builder.load(slot), where, align=4)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    return numba.extending.intrinsic(typed)


def adding(rows: int, lanes: int, *, masked: bool) -> Any:
    """``(out, base, stride, records, rules, models)``: a tile of the merge, in bfloat16."""

    def typed(
        typingctx: Any, out: Any, base: Any, stride: Any, records: Any, rules: Any, models: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            b, tile = builder, _Tile(builder, rows, lanes)
            out, base, stride, records, rules, models = args
            steps = [b.mul(stride, LONG(row)) for row in range(rows)]
            totals = [cgutils.alloca_once(b, tile.floats) for _ in range(rows)]
            for total, step in zip(totals, steps, strict=True):
                b.store(tile.loaded(b.add(base, step)), total)
            with cgutils.for_range(b, models) as loop:
                slots = tile.products(b.add(records, b.mul(loop.index, LONG(8 * RECORD))))
                numbers = b.add(rules, b.mul(loop.index, LONG(4 * RULE)))
                rule = [tile.entry(numbers, i) for i in range(SMOOTH if masked else WHOLE)]
                for total, slot in zip(totals, slots, strict=True):
                    b.store(tile.plus(b.load(total), b.load(slot), rule), total)
            for total, step in zip(totals, steps, strict=True):
                tile.put(b.load(total), b.add(out, step))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return numba.extending.intrinsic(typed)
