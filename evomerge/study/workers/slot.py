"""One place for a worker: its job and its clock, and what a worker's end means for the job."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from evomerge import errors
from evomerge.errors import EvomergeError, ObjectiveError
from evomerge.study.folder import LOG, RESULT
from evomerge.study.workers.launch import WorkerProcess
from evomerge.study.workers.messages import Answer, Broken, Job, Message, Ready, Setup, kept_answer
from evomerge.trial import Outcome

_STARTS = 3  # deaths in a row before a first word, after which starting is hopeless


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds.

    Attributes:
        attempt: merging and measuring one trial; None for no limit.
        start: importing, opening the models and loading the objectives.
        grace: between SIGTERM and SIGKILL.
    """

    attempt: float | None = None
    start: float = 1800.0
    grace: float = 2.0


@dataclass(frozen=True)
class Terms:
    """What all workers of a campaign have in common.

    Attributes:
        folder: the study's.
        isolate: whether every attempt gets a fresh process.
    """

    setup: Setup
    folder: Path
    limits: Limits
    isolate: bool


class Slot:
    """Keeps a worker as long as it is good, and replaces it when it is not."""

    def __init__(self, number: int, terms: Terms, *, device: str | None) -> None:
        self.number = number
        self.job: Job | None = None
        self._terms = terms
        self._device = device
        self._worker: WorkerProcess | None = None
        self._ready = False  # said so
        self._deadline: float | None = None
        self._verdict: tuple[Outcome, str] | None = None  # of an end that we caused
        self._starts = 0
        self._deaths = 0  # in a row, while starting

    @property
    def name(self) -> str:
        """As the study's record says it."""
        return f"worker {self.number}"

    @property
    def connection(self) -> socket.socket | None:
        """To wait on; None without a worker."""
        return None if self._worker is None else self._worker.connection

    def submit(self, job: Job) -> None:
        """Take a job; it is sent when the worker is ready, and its clock starts then."""
        self.job = job
        for stale in (RESULT, LOG):  # of a study that was restored from its backup
            (job.folder / stale).unlink(missing_ok=True)
        if self._worker is not None and self._worker.code is not None:
            self.end()
        if self._worker is None:
            self._start()
        elif self._ready:
            self._send_job(self._worker, job)

    def step(self) -> Answer | None:
        """Look at messages, clock and process; the answer, if there is one now.

        Raises:
            EvomergeError: what the worker says is broken for all candidates.
        """
        worker = self._worker
        if worker is None:
            return None
        ended = worker.code is not None  # before reading: nothing comes after
        for message in worker.received():
            if (answer := self._heed(worker, message)) is not None:
                return answer
        if ended:
            return self._bury(worker)
        if self._deadline is not None and time.monotonic() > self._deadline:
            return self._expire(worker)
        return None

    def ask_to_end(self) -> None:
        """Begin to end the worker and all that it started."""
        if self._worker is not None:
            self._worker.ask_to_end()

    def end(self) -> None:
        """End the worker and all that it started, and wait for it."""
        if self._worker is not None:
            self._worker.ask_to_end()
            self._worker.wait_for_end()
        self._worker, self._ready, self._deadline, self._verdict = None, False, None, None

    def _start(self) -> None:
        self._worker = WorkerProcess(
            self.number,
            self._terms.setup,
            self._terms.folder,
            device=self._device,
            grace=self._terms.limits.grace,
            replacement=self._starts > 0,
        )
        self._starts += 1
        self._deadline = time.monotonic() + self._terms.limits.start

    def _send_job(self, worker: WorkerProcess, job: Job) -> None:
        limit = self._terms.limits.attempt
        self._deadline = None if limit is None else time.monotonic() + limit
        worker.send(job)

    def _heed(self, worker: WorkerProcess, message: Message) -> Answer | None:
        match message:
            case Ready():
                self._ready, self._deaths, self._deadline = True, 0, None
                if self.job is not None:
                    self._send_job(worker, self.job)
            case Broken():
                raise _error(message)
            case Answer() if self.job is not None and message.is_of(self.job):
                return self._finish(message)
        return None

    def _finish(self, answer: Answer) -> Answer:
        if answer.broken is not None:
            raise _error(answer.broken)
        self.job, self._deadline = None, None
        if self._terms.isolate or answer.discard:
            self.end()
        return answer

    def _expire(self, worker: WorkerProcess) -> Answer | None:
        """Past the limit: the whole tree is ended, and then the job is answered."""
        limit = self._terms.limits.attempt
        if self._ready:
            self._verdict = Outcome.TIMED_OUT, f"took longer than its limit of {limit:g} s"
        worker.ask_to_end()
        worker.wait_for_end()
        return self._bury(worker)

    def _bury(self, worker: WorkerProcess) -> Answer | None:
        """The process is gone: what that means for its job."""
        code, job = worker.code or 0, self.job
        ready, verdict = self._ready, self._verdict
        self.end()
        if job is None:
            return None
        if not ready:
            self._start_again(code)
            return None
        outcome, reason = verdict or (Outcome.CRASHED, _how(code))
        kept = kept_answer(job)
        lost = Answer(job.attempt, job.token, job.trial, outcome, reason=reason)
        return self._finish(kept or lost)

    def _start_again(self, code: int) -> None:
        """It died before its first word: no fault of the job, which waits for the next start."""
        self._deaths += 1
        if self._deaths >= _STARTS:
            raise ObjectiveError(
                f"workers die while they start, {self._deaths} times in a row; {_how(code)}",
                place=str(self._terms.folder / "workers" / f"{self.number}.log"),
            )
        self._start()


def _how(code: int) -> str:
    """What an exit status says; negative and 128 + n are signals."""
    number = -code if code < 0 else code - 128
    with contextlib.suppress(ValueError):
        hint = ", perhaps for want of memory" if number == signal.SIGKILL else ""
        return f"the worker was killed by {signal.Signals(number).name}{hint}"
    return f"the worker left with status {code} and no answer"


def _error(broken: Broken) -> EvomergeError:
    kind = getattr(errors, broken.error, ObjectiveError)
    error: EvomergeError = kind(
        broken.cause, place=broken.place, kept=broken.kept, command=broken.command
    )
    return error
