"""Onto disk: the next entries are read and the last ones written while these are computed.

The work is cut into steps, in the order of the output's bytes. A step's inputs lie in a block of
memory of its own; there are `BLOCKS` of them, whatever the models' size. Files are read by pread,
so one that shrinks is an error. A tensor that fits into a block is read once, for its magnitudes
and for the merge; a larger one twice, unless its magnitudes are known.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.checkpoint.dtypes import DTYPES, torch_dtype
from evomerge.merging.scratch import Scratch
from evomerge.merging.sources import Staged, Stored

BLOCK_BYTES = 2**24
"""Inputs of one step, over all models."""

BLOCKS = 3
"""One is read, one computed, one written."""

READERS = 4
"""Files that are read at the same time; a disk needs several requests to be busy."""

_LINE = 64


@dataclass(frozen=True)
class Step:
    """What is read together.

    Attributes:
        name: of the tensor.
        span: first entry, and the one behind the last.
        sources: to read.
        counts: the magnitudes of the task vectors are wanted.
        writes: entries of the output are wanted.
    """

    name: str
    span: tuple[int, int]
    sources: tuple[Stored, ...]
    counts: bool
    writes: bool


class Block:
    """Memory for one step's inputs and output."""

    def __init__(self) -> None:
        self._scratch = Scratch()

    def rooms(self, step: Step) -> list[Tensor]:
        """Memory for the entries of each source, which lie in a row."""
        count = step.span[1] - step.span[0]
        kinds = [torch_dtype(source.entry(step.name).dtype) for source in step.sources]
        sizes = [-(-count * kind.itemsize // _LINE) * _LINE for kind in kinds]
        memory = self._scratch.buffer("inputs", torch.uint8, sum(sizes))
        ends = itertools.accumulate(sizes)
        cut = zip(ends, sizes, kinds, strict=True)
        return [memory[end - size : end].view(kind)[:count] for end, size, kind in cut]

    def output(self, kind: torch.dtype, count: int) -> Tensor:
        """Memory for the step's entries of the output, ``(count,)``."""
        return self._scratch.buffer("output", kind, count)


def steps(name: str, sources: Sequence[Stored], *, counts: bool) -> Iterator[Step]:
    """Cut a tensor; once if it fits into a block, else its counting comes first.

    Args:
        name: of the tensor.
        sources: that the merge depends on.
        counts: magnitudes must be counted before anything can be written.
    """
    entries = [source.entry(name) for source in sources]
    count = entries[0].count
    most = max(1, BLOCK_BYTES // sum(DTYPES[entry.dtype].size for entry in entries))
    spans = [(start, min(start + most, count)) for start in range(0, count, most)]
    if counts and len(spans) == 1:
        yield Step(name, spans[0], tuple(sources), counts=True, writes=True)
        return
    if counts:
        yield from (Step(name, span, tuple(sources), counts=True, writes=False) for span in spans)
    yield from (Step(name, span, tuple(sources), counts=False, writes=True) for span in spans)


def run(
    work: Iterable[Step],
    compute: Callable[[Step, Sequence[Staged], Block], Tensor | None],
    store: Callable[[Step, Tensor], None],
) -> None:
    """Do steps in their order, reading ahead and writing behind.

    Args:
        work: taken a few steps ahead.
        compute: called in this thread, in order; nothing to write is None.
        store: called in order in another thread, with memory that is the step's block's.
    """
    remaining = iter(work)
    free = deque(Block() for _ in range(BLOCKS))
    reading: deque[tuple[Step, Block, list[Future[Staged]]]] = deque()
    writing: deque[tuple[Block, Future[None]]] = deque()
    readers, writer = ThreadPoolExecutor(READERS), ThreadPoolExecutor(1)
    try:
        while True:
            while writing and (writing[0][1].done() or not (free or reading)):
                block, written = writing.popleft()
                written.result()
                free.append(block)
            while free and (step := next(remaining, None)) is not None:
                block = free.popleft()
                pairs = zip(step.sources, block.rooms(step), strict=True)
                jobs = [readers.submit(_staged, step, source, room) for source, room in pairs]
                reading.append((step, block, jobs))
            if not reading:
                break
            step, block, jobs = reading.popleft()
            out = compute(step, [job.result() for job in jobs], block)
            if out is None:
                free.append(block)
            else:
                writing.append((block, writer.submit(store, step, out)))
        for _, written in writing:
            written.result()
    finally:
        readers.shutdown(wait=True, cancel_futures=True)
        writer.shutdown(wait=True, cancel_futures=True)


def _staged(step: Step, source: Stored, room: Tensor) -> Staged:
    return Staged(source, step.span[0], source.read(step.name, *step.span, out=room))
