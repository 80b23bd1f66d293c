"""Onto disk: the next entries are read and the last ones written while these are computed.

The work is cut into steps, in the order of the output's bytes. A step's inputs lie in a block of
memory of its own; there are `BLOCKS` of them, whatever the models' size. Files are read by pread,
so one that shrinks is an error. A tensor of up to `COUNTED_BYTES` is read once, for its magnitudes
and for the merge; a larger one twice, unless its magnitudes are known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from evomerge.checkpoint.cold import REQUEST_BYTES
from evomerge.checkpoint.dtypes import DTYPES
from evomerge.checkpoint.memory import Arena, Entries
from evomerge.merging.sources import Staged, Stored

BLOCK_BYTES = 2**24
"""Inputs of one step, over all models."""

COUNTED_BYTES = 2**25
"""Of one that counts and writes; a tensor that is larger is read twice."""

BLOCKS = 4
"""Two are read, one computed, one written."""

READERS = 16
"""Requests under way at the same time; a cold disk needs that many to be busy."""


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
        self._inputs, self._output = Arena(), Arena()

    def rooms(self, step: Step) -> list[Entries]:
        """Memory for the entries of each source, which lie in a row."""
        count = step.span[1] - step.span[0]
        return self._inputs.cut([(s.entry(step.name).dtype, count) for s in step.sources])

    def output(self, word: str, count: int) -> Entries:
        """Memory for the step's entries of the output."""
        return self._output.cut([(word, count)])[0]


def steps(name: str, sources: Sequence[Stored], *, counts: bool) -> Iterator[Step]:
    """Cut a tensor; what is counted stays whole if it can, else its counting comes first.

    Args:
        name: of the tensor.
        sources: that the merge depends on.
        counts: magnitudes must be counted before anything can be written.
    """
    entries = [source.entry(name) for source in sources]
    count, size = entries[0].count, sum(DTYPES[entry.dtype].size for entry in entries)
    if counts and 0 < count * size <= COUNTED_BYTES:
        yield Step(name, (0, count), tuple(sources), counts=True, writes=True)
        return
    most = max(1, BLOCK_BYTES // size)
    spans = [(start, min(start + most, count)) for start in range(0, count, most)]
    if counts:
        yield from (Step(name, span, tuple(sources), counts=True, writes=False) for span in spans)
    yield from (Step(name, span, tuple(sources), counts=False, writes=True) for span in spans)


def run(
    work: Iterable[Step],
    compute: Callable[[Step, Sequence[Staged], Block], Entries | None],
    store: Callable[[Step, Entries], None],
    *,
    once: bool = False,
) -> None:
    """Do steps in their order, reading ahead and writing behind.

    Args:
        work: taken a few steps ahead.
        compute: called in this thread, in order; nothing to write is None.
        store: called in order in another thread, with memory that is the step's block's.
        once: the sources are read for this alone; what a step only counts is read again in it.
    """
    remaining = iter(work)
    free = deque(Block() for _ in range(BLOCKS))
    reading: deque[tuple[Step, Block, list[Staged], list[Future[None]]]] = deque()
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
                rooms = zip(step.sources, block.rooms(step), strict=True)
                staged = [Staged(source, step.span[0], room) for source, room in rooms]
                jobs = [readers.submit(request) for request in _requests(step, staged, once)]
                reading.append((step, block, staged, jobs))
            if not reading:
                break
            step, block, staged, jobs = reading.popleft()
            for job in jobs:
                job.result()
            out = compute(step, staged, block)
            if out is None:
                free.append(block)
            else:
                writing.append((block, writer.submit(store, step, out)))
        for _, written in writing:
            written.result()
    finally:
        readers.shutdown(wait=True, cancel_futures=True)
        writer.shutdown(wait=True, cancel_futures=True)


def _requests(step: Step, staged: Sequence[Staged], once: bool) -> Iterator[Callable[[], None]]:
    """What fills the step's memory, cut for many readers."""
    last = once and step.writes
    for part in staged:
        most = REQUEST_BYTES // DTYPES[part.entries.word].size
        for start in range(0, len(part.entries), most):
            stop = min(start + most, len(part.entries))
            room = part.entries.part(start, stop)
            yield partial(part.source.read_into, step.name, part.start + start, room, once=last)
