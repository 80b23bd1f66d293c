"""A merge as steps of `evomerge.merging.stream`: what is read, counted, computed and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from evomerge.checkpoint.dtypes import torch_dtype
from evomerge.checkpoint.memory import Entries
from evomerge.checkpoint.writer import CheckpointWriter
from evomerge.merging.bound_adapter import BoundAdapter
from evomerge.merging.entries import (
    Inputs,
    TensorMerge,
    merged,
    read_runs,
    spans,
)
from evomerge.merging.finite import non_finite
from evomerge.merging.fused import Run, blend
from evomerge.merging.magnitudes import MagnitudeTable
from evomerge.merging.method import Settings
from evomerge.merging.plan import MergePlan
from evomerge.merging.scratch import Scratch
from evomerge.merging.sources import Staged, Stored
from evomerge.merging.stream import Block, Step, run, steps
from evomerge.merging.tally import Tally

if TYPE_CHECKING:
    from evomerge.merging.merger import Merger

Result = TypeVar("Result")

LEAST_SHARE = 2**16
"""Entries for which a second thread is worth its start."""


@dataclass
class _Job:
    """One tensor's merge while its steps are under way.

    Attributes:
        models: whose entries are read, by their place in the plan.
        unknown: of these, whose magnitudes are to be counted.
        tables: of magnitudes, by model.
        tallies: counts that are not yet tables, as many as there are threads.
    """

    settings: Settings
    models: tuple[int, ...]
    unknown: tuple[int, ...]
    tables: dict[int, MagnitudeTable]
    tallies: list[Tally] = field(default_factory=list)


class StreamedMerge:
    """Writes all tensors of an elementwise merge, in the order of the output's bytes.

    Args:
        merger: base and models.
        plan: one that passed its `check`.
        words: the output's dtype by tensor.
        bad: how many entries are NaN or infinite, by tensor; added to.
        threads: that compute.
        once: the models' files are read for this merge alone.
    """

    def __init__(
        self,
        merger: Merger,
        plan: MergePlan,
        words: Mapping[str, str],
        bad: dict[str, int],
        *,
        threads: int,
        once: bool,
    ) -> None:
        self._merger, self._plan, self._words, self._bad = merger, plan, words, bad
        self._threads, self._once = threads, once
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._models = [merger.models[name] for name in plan.models]
        self._jobs: dict[str, _Job] = {}

    def write(self, writer: CheckpointWriter) -> None:
        """Do it."""

        def store(step: Step, out: Entries) -> None:
            writer.write_entries(step.name, step.span[0], out)

        try:
            run(self._steps(writer), self._compute, store, once=self._once)
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def _steps(self, writer: CheckpointWriter) -> Iterator[Step]:
        for shard in writer.shards:
            for name in shard.offsets:
                settings = self._merger.settings(name, self._plan)
                if settings is None:
                    yield from steps(name, [self._merger.base], counts=False)
                    continue
                job = self._jobs[name] = self._job(name, settings)
                yield from steps(name, self._stored(job), counts=bool(job.unknown))

    def _job(self, name: str, settings: Settings) -> _Job:
        each = map if self._pool is None else self._pool.map
        tables, unknown = self._merger.tables(name, self._plan, settings, each)
        return _Job(settings, self._merger.used(self._plan, settings), unknown, tables)

    def _compute(self, step: Step, staged: Sequence[Staged], block: Block) -> Entries | None:
        job = self._jobs.get(step.name)
        if job is None:
            return self._noted(step, self._copied(step, staged[0], block))
        inputs = self._inputs(step, staged, job)
        if step.counts:
            self._count(step, inputs, job)
        if not step.writes:
            return None
        word, (start, stop) = self._words[step.name], step.span
        merge = self._merger.merge_of(inputs, self._plan, job.settings, word, job.tables)
        out = block.output(word, stop - start)

        def fill(span: tuple[int, int], scratch: Scratch) -> None:
            _fill(merge, out.part(span[0] - start, span[1] - start), span, scratch)

        self._shared(fill, step.span)
        if stop == inputs.count:
            del self._jobs[step.name]
        return self._noted(step, out)

    def _copied(self, step: Step, staged: Staged, block: Block) -> Entries:
        word, (start, stop) = self._words[step.name], step.span
        if staged.entries.word == word:
            return staged.entries
        out = block.output(word, stop - start)
        out.tensor().copy_(staged.entries.tensor())
        return out

    def _noted(self, step: Step, out: Entries) -> Entries:
        found = self._shared(lambda span, scratch: non_finite(out.part(*span)), (0, len(out)))
        self._bad[step.name] += sum(found)
        return out

    def _count(self, step: Step, inputs: Inputs, job: _Job) -> None:
        compiled = self._merger.fits(inputs, job.unknown)
        idle = job.tallies  # of the tensor's steps before this one

        def count(span: tuple[int, int], scratch: Scratch) -> Tally:
            try:
                tally = idle.pop()
            except IndexError:
                tally = Tally(job.unknown, compiled=compiled)
            for part in [span] if compiled else spans(span[1], first=span[0]):
                tally.add(inputs, part, scratch)
            return tally

        job.tallies = [*self._shared(count, step.span), *idle]
        if step.span[1] < inputs.count:
            return
        by_tally = [tally.counts() for tally in job.tallies]
        for i, counts in zip(job.unknown, zip(*by_tally, strict=True), strict=True):
            job.tables[i] = MagnitudeTable.of(sum(counts[1:], counts[0]), inputs.count)
            self._merger.keep(step.name, self._plan.models[i], job.tables[i])

    def _shared(
        self, work: Callable[[tuple[int, int], Scratch], Result], span: tuple[int, int]
    ) -> list[Result]:
        """Divide entries among the threads."""

        def part(share: tuple[int, int]) -> Result:
            with self._merger.scratches.one() as scratch:
                return work(share, scratch)

        most = max(LEAST_SHARE, -(-(span[1] - span[0]) // self._threads))
        cut = [(i, min(i + most, span[1])) for i in range(*span, most)]
        if self._pool is None or len(cut) == 1:
            return [part(share) for share in cut]
        return list(self._pool.map(part, cut))

    def _inputs(self, step: Step, staged: Sequence[Staged], job: _Job) -> Inputs:
        """The tensor as it lies in the block, with all of the plan's models in their order."""
        held = dict(zip(map(id, step.sources), staged, strict=True))
        models = [held.get(id(model), model) for model in self._models]
        return Inputs(step.name, staged[0], models, self._plan.models, self._plan.seed)

    def _stored(self, job: _Job) -> list[Stored]:
        """What is read for a tensor: the base, and the models but adapters, which are made."""
        used = (self._models[i] for i in job.models)
        return [self._merger.base, *(m for m in used if not isinstance(m, BoundAdapter))]


def _fill(merge: TensorMerge, target: Entries, span: tuple[int, int], scratch: Scratch) -> None:
    """Compute the entries of a span right where they are wanted."""
    if merge.formula is not None:
        runs = read_runs(merge.inputs, merge.formula.models, span, scratch)
        out = Run(target.word, target.address)
        blend(merge.formula, out, runs, (0, len(target)), span[0])
        return
    room = target.tensor()
    for first, piece in merged(merge, torch_dtype(target.word), scratch, within=span):
        room[first - span[0] : first - span[0] + len(piece)].copy_(piece)
