"""Entries as they are stored, and as float32 side by side: words of 32 bits of each dtype.

A word has one entry of float32, or two of half that width. Lanes hold a part of the words' entries
at a time: as many of them as there are words.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from typing import Any

import numba
from llvmlite import binding, ir

from evomerge.merging.halves import KINDS
from evomerge.merging.lanes import FLOAT, LONG, Lanes


class Pairs(Lanes):
    """Words of two bfloat16 entries, taken apart by a shift and a mask: those of even places first.

    Nothing is ever brought into another order.
    """

    parts, step = 2, 2
    """Entries of a word; from an entry to the next one of the same part."""

    def begin(self, part: int) -> int:
        """The place of a part's first entry."""
        return part

    def entries(self, address: Any) -> Iterator[Any]:
        """Those of the words from an address on, part by part."""
        word = self.builder.load(_pointer(self, self.words, address), align=2)
        yield self.lower(word)
        yield self.upper(word)

    def put(self, parts: Sequence[Any], address: Any) -> None:
        """Store the entries, rounded."""
        word = self.joint(*map(self.rounded, parts))
        self.builder.store(word, _pointer(self, self.words, address), align=2)


class Runs(Lanes):
    """As `Pairs`, of a dtype that the machine converts: a part are entries in a row."""

    step = 1

    def __init__(self, builder: Any, count: int, kind: Any) -> None:
        super().__init__(builder, count)
        self.kind, self.width = ir.VectorType(kind, count), 4 if kind == FLOAT else 2
        self.parts = 4 // self.width

    def begin(self, part: int) -> int:
        return part * self.count

    def entries(self, address: Any) -> Iterator[Any]:
        for part in range(self.parts):
            found = self.builder.load(self._at(address, part), align=2)
            yield found if self.kind == self.floats else self.builder.fpext(found, self.floats)

    def put(self, parts: Sequence[Any], address: Any) -> None:
        for part, values in enumerate(parts):
            if self.kind != self.floats:
                values = self.builder.fptrunc(values, self.kind)
            self.builder.store(values, self._at(address, part), align=2)

    def _at(self, address: Any, part: int) -> Any:
        place = self.builder.add(address, LONG(self.width * self.begin(part)))
        return _pointer(self, self.kind, place)


def stored(kind: int, builder: Any, count: int) -> Pairs | Runs:
    """For ``count`` words of a dtype of `halves.KINDS`."""
    if kind == KINDS["BF16"]:
        return Pairs(builder, count)
    return Runs(builder, count, FLOAT if kind == KINDS["F32"] else ir.HalfType())


def dtypes() -> frozenset[str]:
    """Those of which the machine has words.

    Without instructions for float16 its conversion would be a call of what is not linked.
    """
    config: Any = numba.config
    chosen = config.CPU_NAME or config.CPU_FEATURES
    converts = platform.machine().lower() in {"aarch64", "arm64"} or (
        not chosen and binding.get_host_cpu_features().get("f16c", False)
    )
    return frozenset(KINDS) if converts else frozenset(KINDS) - {"F16"}


def _pointer(tile: Lanes, kind: Any, address: Any) -> Any:
    return tile.builder.inttoptr(address, kind.as_pointer())
