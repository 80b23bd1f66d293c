"""Desks: live models side by side, each turned into one mix after another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.models import opened_in
from evomerge.errors import UsageError
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
from evomerge.objectives.models import load_model
from evomerge.objectives.subject import LanguageModel, LiveModel
from evomerge.serve.mixes import Mix
from evomerge.serve.refusal import Refusal

Result = TypeVar("Result")
Job = Callable[[LanguageModel, torch.device], Result]


class Desk:
    """A live model, and which mix it is. One thread at a time."""

    def __init__(self, live: LiveModel, merge: LiveMerge) -> None:
        self._live = live
        self._merge = merge
        self.held: str | None = None

    def do(self, mix: Mix, job: Job[Result]) -> Result:
        """Become the mix, unless it is that already, and do the job."""
        if self.held != mix.digest:
            self.held = None  # whatever happens below, it is no longer that
            if mix.plan is None:
                self._merge.restore()
            else:
                self._merge.apply(mix.plan)
            self.held = mix.digest
        language = self._live.language
        assert language is not None  # `open_desks` has refused others
        return job(language, self._live.device)


def open_desks(
    base: Path,
    models: Mapping[str, Path],
    count: int,
    stack: ExitStack,
    *,
    device: str | None = None,
    dtype: str | None = None,
) -> tuple[Checkpoint, list[Desk]]:
    """Open the pool once, and load the base as often as there are desks.

    Args:
        stack: closes the files.

    Raises:
        CheckpointError: a file is broken, or a model does not fit the base.
        UsageError: the base is no causal language model.
    """
    checkpoint = stack.enter_context(Checkpoint.open(base))
    pool = {name: opened_in(stack, path) for name, path in models.items()}
    merger = Merger(checkpoint, pool, compiled=True)
    desks = []
    for _ in range(count):
        live = load_model(base, device=device, dtype=dtype)
        if live.language is None:
            raise UsageError(f"the base in {base} is no causal language model")
        desks.append(Desk(live, LiveMerge(merger, live.module, dtype=dtype)))
    return checkpoint, desks


class Office:
    """Hands requests to desks: to one that holds their mix already, where there is a choice.

    Lives on one event loop; the work is done in threads, one per desk.

    Args:
        waiting: how many requests may wait for a desk.
    """

    def __init__(self, desks: list[Desk], *, waiting: int) -> None:
        self._idle = list(desks)
        self._most = waiting
        self._waiting: deque[asyncio.Future[Desk]] = deque()
        self._threads = ThreadPoolExecutor(len(desks), thread_name_prefix="desk")

    async def do(self, mix: Mix, job: Job[Result]) -> Result:
        """The job's result on the mix.

        Raises:
            Refusal: too many requests wait already.
        """
        desk = await self._desk(mix.digest)
        work = asyncio.get_running_loop().run_in_executor(self._threads, desk.do, mix, job)
        work.add_done_callback(lambda _: self._release(desk))
        return await asyncio.shield(work)  # a desk is free when its thread is, not before

    def close(self) -> None:
        """Let the jobs under way end, and drop those that wait."""
        self._threads.shutdown(cancel_futures=True)

    async def _desk(self, digest: str) -> Desk:
        if self._idle:
            same = (desk for desk in self._idle if desk.held == digest)
            desk = next(same, self._idle[0])
            self._idle.remove(desk)
            return desk
        if len(self._waiting) >= self._most:
            raise Refusal(429, "too many requests wait", "busy", {"retry-after": "1"})
        place: asyncio.Future[Desk] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._release(place.result())
            raise

    def _release(self, desk: Desk) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(desk)
                return
        self._idle.append(desk)
