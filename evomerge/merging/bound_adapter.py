"""An adapter on one base: the task vectors that it gives, a stretch of entries at a time."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING

from evomerge.checkpoint.adapter import Adapter, Change, LowRank
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.header import TensorEntry
from evomerge.checkpoint.names import listed, quoted
from evomerge.merging.low_rank import Factors, fill_product
from evomerge.merging.scratch import Scratch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    FactorKey = tuple[int, str, torch.dtype]

FACTOR_BYTES = 128_000_000
"""What factors of adapters may take in memory; beyond that they are read anew each time."""

BLOCK = 2**14
"""Entries summed at once for DoRA's norms; so few that torch never shares them among threads."""


class FactorCache:
    """Factors that stay in memory, in the dtype of the arithmetic, up to a number of bytes.

    Those that were not asked for longest make room: the stretches of one tensor find its factors,
    however many adapters there are. Threads may use it at the same time.
    """

    def __init__(self, most: int = FACTOR_BYTES) -> None:
        self._most = self._room = most
        self._known: OrderedDict[FactorKey, tuple[Factors, Tensor | None]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: FactorKey) -> tuple[Factors, Tensor | None] | None:
        """What `keep` kept: of which adapter, which tensor, in which dtype."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def keep(self, key: FactorKey, factors: Factors, gain: Tensor | None) -> None:
        """Remember, if it is not larger than the whole cache."""
        size = _size(factors, gain)
        with self._lock:
            if key in self._known or size > self._most:
                return
            self._known[key] = factors, gain
            self._room -= size
            while self._room < 0:
                self._room += _size(*self._known.popitem(last=False)[1])


def _size(factors: Factors, gain: Tensor | None) -> int:
    return factors.size + (0 if gain is None else gain.nbytes)


class BoundAdapter:
    """The task vectors of an adapter.

    Attributes:
        adapter: open; whoever opened it closes it.
        base: open likewise.
        changes: by the name of the base's tensor; a tensor that is absent is the base's own.

    Args:
        cache: where factors stay; adapters may share it.
        compiled: whether compiled loops may be used, which give the same bits.
    """

    def __init__(
        self, base: Checkpoint, adapter: Adapter, cache: FactorCache, *, compiled: bool = False
    ) -> None:
        self.adapter, self.base = adapter, base
        found = base_names(adapter, base)
        self.changes: Mapping[str, Change] = MappingProxyType(
            {found[name]: change for name, change in adapter.changes.items() if name in found}
        )
        self._cache, self._compiled = cache, compiled

    def fill(self, name: str, start: int, base: Tensor, out: Tensor, scratch: Scratch) -> None:
        """Fill a stretch of entries of a task vector.

        Args:
            name: of the base's tensor.
            start: place of the first entry in the flattened tensor.
            base: the base's entries there, ``(n,)``, in the dtype of the arithmetic.
            out: like them.
        """
        change = self.changes.get(name)
        if change is None:
            out.zero_()
            return
        own = base
        if change.replaced is not None:
            own = self._stored(change.replaced, start, out, "replaced", scratch)
        if change.low_rank is not None:
            self._fill_low_rank(name, change.low_rank, start, own, out, scratch)
        elif change.added is not None:
            out.copy_(self._stored(change.added.name, start, out, "added", scratch))
            out.mul_(change.added.factor)
        else:
            out.zero_()
        if change.low_rank is not None and change.low_rank.magnitude is not None:
            out.sub_(base)
        elif own is not base:
            out.add_(own.sub_(base))

    def factors(self, name: str) -> Callable[[], Factors] | None:
        """What gives those of a plain low-rank change, float32; None for any other."""
        change = self.changes[name]
        low_rank = change.low_rank
        if change.replaced is not None or low_rank is None or low_rank.magnitude is not None:
            return None
        import torch

        return lambda: self._factors(name, low_rank, torch.float32, Scratch())[0]

    def identity(self, name: str) -> str | None:
        """What decides the change of a tensor on a given base; None if that is not known."""
        change = self.changes.get(name)
        if change is None:
            return None
        low_rank, added = change.low_rank, change.added
        stored = [change.replaced, added and added.name]
        if low_rank is not None:
            stored += [low_rank.down, low_rank.up, low_rank.magnitude]
        found = [each and self.adapter.stored.identity(each) for each in stored]
        if any(each and not known for each, known in zip(stored, found, strict=True)):
            return None
        numbers = low_rank and (low_rank.rank, low_rank.scale, low_rank.transposed)
        return json.dumps(["adapter", *found, numbers, added and added.factor])

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start to stop of a task vector, float32, in the tensor's shape but for the first.

        For servers that add a mixture of adapters to a model in memory.
        """
        import torch

        entry = self.base.entry(name)
        width = math.prod(entry.shape[1:])
        base = self.base.read(name, start * width, stop * width).float()
        out = torch.empty_like(base)
        self.fill(name, start * width, base, out, Scratch())
        return out.view(stop - start, *entry.shape[1:])

    def _fill_low_rank(
        self, name: str, change: LowRank, start: int, own: Tensor, out: Tensor, scratch: Scratch
    ) -> None:
        """The product; with a magnitude the whole effective tensor, from which its own is taken."""
        from evomerge.merging.products import fill_compiled

        factors, gain = self._factors(name, change, out.dtype, scratch)
        if not (self._compiled and fill_compiled(factors, start, out)):
            fill_product(factors, start, out, scratch)
        if gain is not None:
            out.add_(own).mul_(self._spread(gain, change, factors, start, len(out)))

    def _factors(
        self, name: str, change: LowRank, kind: torch.dtype, scratch: Scratch
    ) -> tuple[Factors, Tensor | None]:
        """Factors, and what DoRA multiplies each output by."""
        key = (id(self), name, kind)
        known = self._cache.get(key)
        if known is not None:
            return known
        factors = Factors.of(*self.adapter.factors(change, kind), transposed=change.transposed)
        gain = None
        if change.magnitude is not None:
            magnitude = self.adapter.stored.tensor(change.magnitude).to(kind).reshape(-1)
            gain = magnitude.div_(self._norms(name, change, factors, scratch).to(kind))
        self._cache.keep(key, factors, gain)
        return factors, gain

    def _norms(self, name: str, change: LowRank, factors: Factors, scratch: Scratch) -> Tensor:
        """The length of every output's weights, float64: DoRA (arXiv:2402.09353), equation 5."""
        import torch

        rows, columns = len(factors.left), factors.right.shape[1]
        squares = torch.zeros(columns if change.transposed else rows, dtype=torch.float64)
        height, width = max(1, BLOCK // max(1, columns)), min(BLOCK, columns)
        for row in range(0, rows, height):
            stop = min(row + height, rows)
            for column in range(0, columns, width):
                count = (stop - row) * min(width, columns - column)
                start = row * columns + column
                own = self._own(name, start, count, factors.left.dtype)
                weights = scratch.buffer("weights", own.dtype, count)
                fill_product(factors, start, weights, scratch)
                square = weights.add_(own).double().square_().view(stop - row, -1)
                if change.transposed:
                    squares[column : column + square.shape[1]] += square.sum(0)
                else:
                    squares[row:stop] += square.sum(1)
        return squares.sqrt_()

    def _own(self, name: str, start: int, count: int, kind: torch.dtype) -> Tensor:
        """Entries that the product is added to: the base's, or those that replace them."""
        replaced = self.changes[name].replaced
        if replaced is not None:
            return self.adapter.stored.read(replaced, start, start + count).to(kind)
        return self.base.read(name, start, start + count).to(kind)

    def _spread(
        self, gain: Tensor, change: LowRank, factors: Factors, start: int, count: int
    ) -> Tensor:
        """The gain of each entry of a stretch."""
        import torch

        columns = factors.right.shape[1]
        places = torch.arange(start, start + count)
        places = places % columns if change.transposed else places // columns
        return gain[places]

    def _stored(self, name: str, start: int, like: Tensor, role: str, scratch: Scratch) -> Tensor:
        stored = self.adapter.stored.read(name, start, start + len(like))
        return scratch.buffer(role, like.dtype, len(like)).copy_(stored)


def base_names(adapter: Adapter, base: Checkpoint) -> dict[str, str]:
    """The base's tensor for each that the adapter changes; those that are missing are left out.

    Checkpoints drop or add the first word of a name, which names the model's body: GPT-2's
    ``transformer.h.0`` is stored as ``h.0``.
    """
    firsts = {name.split(".")[0] for name in base.tensors}
    found = {}
    for name in adapter.changes:
        choices = [name, name.partition(".")[2], *(f"{first}.{name}" for first in sorted(firsts))]
        match = next((choice for choice in choices if choice in base.tensors), None)
        if match is not None:
            found[name] = match
    return found


def misfits(adapter: Adapter, base: Checkpoint) -> list[str]:
    """What keeps an adapter from being merged into a base; clauses without a subject."""
    found = base_names(adapter, base)
    missing = [name for name in adapter.changes if name not in found]
    problems = [f"changes {listed(missing)}, which the base has not"] if missing else []
    twice = len(found) - len(set(found.values()))
    if twice:
        problems.append(f"changes {twice} tensors of the base under two names")
    for name, change in adapter.changes.items():
        if name in found:
            problems += _misfit(adapter, base.entry(found[name]), change)
    return problems


def _misfit(adapter: Adapter, entry: TensorEntry, change: Change) -> list[str]:
    if not entry.is_float:
        return [f"changes {quoted(entry.name)}, which is {entry.dtype} in the base"]
    wanted = [
        adapter.stored.entry(name).shape
        for name in (change.replaced, change.added.name if change.added else None)
        if name is not None
    ]
    if change.low_rank is not None:
        wanted += _product_shapes(adapter, change.low_rank, entry)
    return [
        f"changes {quoted(entry.name)} by {list(shape)}, which has the shape "
        f"{list(entry.shape)} in the base"
        for shape in wanted
        if shape != entry.shape
    ]


def _product_shapes(adapter: Adapter, change: LowRank, entry: TensorEntry) -> list[tuple[int, ...]]:
    """The shape that the factors make; and that of a magnitude that has another length."""
    down, up = adapter.stored.entry(change.down).shape, adapter.stored.entry(change.up).shape
    shape = (*down[1:], up[0]) if change.transposed else (up[0], *down[1:])
    if change.magnitude is not None:
        magnitude = adapter.stored.entry(change.magnitude)
        if magnitude.count != up[0]:
            return [shape, magnitude.shape]
    return [shape]
