"""Entries side by side: what the arithmetic of loops is that are written for vectors.

Numba's own loops reload their constants at every strip and spend a third of their time so. The
rules are those of `evomerge.merging.kernels`, with the same roundings in the same order.
"""

from __future__ import annotations

from typing import Any

import numba.core.cgutils
from llvmlite import ir

cgutils: Any = numba.core.cgutils

HALF, WORD, LONG, FLOAT = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()

WHOLE, PLAIN, SMOOTH, EXACT = 1, 2, 4, 5
"""How many numbers a rule of each form has."""

Rule = list[Any]
"""A rule's numbers, each in all lanes."""


class Lanes:
    """Writes code that does the same to several entries.

    Args:
        builder: of llvmlite.
        count: of entries.
    """

    def __init__(self, builder: Any, count: int) -> None:
        self.builder, self.count = builder, count
        self.words = ir.VectorType(WORD, count)
        self.floats = ir.VectorType(FLOAT, count)

    def word(self, number: int) -> Any:
        """The same 32 bits in all lanes."""
        return ir.Constant(self.words, [number] * self.count)

    def number(self, number: float) -> Any:
        """The same float32 in all lanes."""
        return ir.Constant(self.floats, [number] * self.count)

    def everywhere(self, value: Any) -> Any:
        """A float32 in all lanes."""
        empty = ir.Constant(self.floats, ir.Undefined)
        first = self.builder.insert_element(empty, value, WORD(0))
        return self.builder.shuffle_vector(first, empty, self.word(0))

    def rule(self, numbers: Any) -> Rule:
        """The numbers of a tuple."""
        return [self.everywhere(number) for number in cgutils.unpack_tuple(self.builder, numbers)]

    def bits(self, value: Any) -> Any:
        return self.builder.bitcast(value, self.words)

    def value(self, bits: Any) -> Any:
        return self.builder.bitcast(bits, self.floats)

    def lower(self, word: Any) -> Any:
        """The first of the two bfloat16 numbers in each word."""
        return self.value(self.builder.shl(word, self.word(16)))

    def upper(self, word: Any) -> Any:
        """The second one."""
        return self.value(self.builder.and_(word, self.word(0xFFFF0000)))

    def size(self, value: Any) -> Any:
        """Without the sign."""
        return self.value(self.builder.and_(self.bits(value), self.word(0x7FFFFFFF)))

    def side(self, value: Any) -> Any:
        """The sign bit."""
        return self.builder.and_(self.bits(value), self.word(0x80000000))

    def turned(self, value: Any, side: Any) -> Any:
        """With the other sign where the side is the negative one."""
        return self.value(self.builder.xor(self.bits(value), side))

    def positive_zero(self, value: Any) -> Any:
        """Without -0."""
        return self.builder.fadd(value, self.number(0.0))

    def term(self, vector: Any, rule: Rule, hashed: Any) -> tuple[Any, Any]:
        """Where an entry of a task vector is dropped, None if never, and its term in the sum.

        Args:
            hashed: what lots are made of, as `hashed`, where the rule draws them.
        """
        b, factor = self.builder, rule[0]
        if len(rule) == WHOLE:
            return None, b.fmul(vector, factor)
        size, low = self.size(vector), rule[1]
        if len(rule) == SMOOTH:
            tied = b.fcmp_ordered("<", size, rule[2])
            vector = b.select(tied, b.fmul(vector, rule[3]), vector)
        elif len(rule) == EXACT:
            lot = b.mul(hashed, self.bits(rule[4]))
            low = b.select(b.icmp_unsigned(">=", lot, self.bits(rule[3])), rule[2], low)
        return b.fcmp_ordered("<", size, low), b.fmul(vector, factor)

    def plus(self, total: Any, vector: Any, rule: Rule, hashed: Any = None) -> Any:
        """The total and a model's term."""
        dropped, term = self.term(vector, rule, hashed)
        more = self.builder.fadd(total, term)
        return more if dropped is None else self.builder.select(dropped, total, more)

    def kept(self, vector: Any, rule: Rule, hashed: Any = None) -> Any:
        """A model's term, 0 where it is dropped."""
        dropped, term = self.term(vector, rule, hashed)
        return term if dropped is None else self.builder.select(dropped, self.number(0.0), term)

    def hashed(self, place: Any, key: Any, step: int) -> Any:
        """What the lots of entries are made of, as `evomerge.merging.lots`.

        Args:
            place: of the first entry, int64; the next ones are ``step`` further each.
            key: of the tensor, int64.
        """
        b = self.builder
        first, key = (
            self.bits(self.everywhere(b.bitcast(b.trunc(number, WORD), FLOAT)))
            for number in (place, key)
        )
        bits = b.add(first, ir.Constant(self.words, [step * i for i in range(self.count)]))
        bits = b.xor(bits, key)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            bits = b.mul(b.xor(bits, b.lshr(bits, self.word(shift))), self.word(factor))
        return b.xor(bits, b.lshr(bits, self.word(16)))

    def rounded(self, value: Any) -> Any:
        """Bits whose upper half is the bfloat16 nearest, ties to even; the lower half is anything.

        NaN stays NaN where its lower half is 0, as that of all NaN is which are made of bfloat16.
        """
        b, bits = self.builder, self.bits(value)
        odd = b.icmp_unsigned("!=", b.and_(bits, self.word(0x10000)), self.word(0))
        return b.add(bits, b.select(odd, self.word(0x8000), self.word(0x7FFF)))

    def joint(self, lower: Any, upper: Any) -> Any:
        """Words of two bfloat16 numbers, from the upper halves of bits."""
        b = self.builder
        return b.or_(b.lshr(lower, self.word(16)), b.and_(upper, self.word(0xFFFF0000)))
