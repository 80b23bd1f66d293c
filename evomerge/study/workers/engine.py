"""The local engine: worker processes of this machine, one attempt at a time in each.

A slot starts its worker when it first gets a job, keeps it for the next, and replaces it when it
died, timed out, ran out of memory, or when every attempt is to have a fresh one. The engine knows
processes and messages; what a trial is worth, and whether it is tried again, is the study's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from multiprocessing.connection import wait as wait_for

from evomerge.study.workers.messages import Answer, Job
from evomerge.study.workers.slot import Slot, Terms

_LOOK = 0.2  # seconds between two looks at clocks and processes


class LocalEngine:
    """Runs jobs in worker processes of this machine."""

    def __init__(self, terms: Terms, *, workers: int, devices: Sequence[str] = ()) -> None:
        """Nothing is started yet.

        Args:
            workers: how many attempts run at once, >= 1.
            devices: for CUDA_VISIBLE_DEVICES, dealt to the workers in turn.
        """
        self._slots = tuple(
            Slot(number, terms, device=devices[number % len(devices)] if devices else None)
            for number in range(workers)
        )

    @property
    def free(self) -> int:
        """How many more jobs could run now."""
        return sum(slot.job is None for slot in self._slots)

    @property
    def running(self) -> tuple[Job, ...]:
        """Jobs without an answer."""
        return tuple(slot.job for slot in self._slots if slot.job is not None)

    def next_worker(self) -> str:
        """The name of the worker that the next job goes to; needs ``free > 0``."""
        return self._free_slot().name

    def submit(self, job: Job) -> None:
        """Give a job to a free worker; needs ``free > 0``."""
        self._free_slot().submit(job)

    def wait(self, timeout: float) -> list[Answer]:
        """Answers that came within `timeout` seconds; returns as soon as there is one.

        Raises:
            EvomergeError: whatever a worker says is broken for all candidates, as its own class.
        """
        deadline = time.monotonic() + timeout
        while True:
            answers = [a for a in (slot.step() for slot in self._slots) if a is not None]
            left = deadline - time.monotonic()
            if answers or left <= 0:
                return answers
            connections = [slot.connection for slot in self._slots]
            wait_for([c for c in connections if c is not None], min(left, _LOOK))

    def stop(self) -> tuple[Job, ...]:
        """End all workers with everything they started; the jobs left without an answer."""
        unfinished = self.running
        for slot in self._slots:
            slot.ask_to_end()
        for slot in self._slots:
            slot.end()
        return unfinished

    def _free_slot(self) -> Slot:
        return next(slot for slot in self._slots if slot.job is None)
