"""The loop: ask, give to a worker, record the end; then confirm what was found.

It keeps nothing that the study does not: whatever kills it, the next run goes on from there.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from evomerge.errors import EvomergeError, ObjectiveError
from evomerge.faults import reach
from evomerge.study import confirmation
from evomerge.study.control import is_control, next_control
from evomerge.study.costs import Costs, probe_job
from evomerge.study.events import (
    AttemptBegan,
    AttemptEnded,
    Event,
    Paid,
    Phase,
    PhaseBegan,
    Stopping,
)
from evomerge.study.failures import FailureBudget
from evomerge.study.folder import ENDPOINTS, SCRATCH, attempt_folder, scratch_folder
from evomerge.study.interrupts import Interrupted, Interrupts, Urgency
from evomerge.study.records import Attempt
from evomerge.study.study import Study
from evomerge.study.workers.devices import cuda_devices
from evomerge.study.workers.engine import LocalEngine
from evomerge.study.workers.messages import NOBODY, Answer, Job, Setup, kept_answer
from evomerge.study.workers.processes import kill_marked, marker_of
from evomerge.study.workers.slot import Limits, Terms
from evomerge.trial import Candidate, Outcome, Split, TrialState

GRACE = 30.0
"""Seconds that attempts have to finish after the first Ctrl-C."""

_LOOK = 0.2  # seconds between two looks at signals and clocks
_TRIES = 3  # at confirming a trial whose worker dies
_WALL = 5.0  # seconds of running that a kill may leave out of the budget of hours

OnEvent = Callable[[Event], None]


class Ending(StrEnum):
    """How a run ended."""

    FINISHED = "finished"  # the budget of trials is used up, and the front is confirmed
    OUT_OF_TIME = "out of time"  # the budget of hours is used up, and the front is confirmed
    OUT_OF_SPEND = "out of spend"  # that of requests, tokens or money is, and nothing more is asked
    STOPPED = "stopped"  # by a signal; the same command continues
    FORCED = "forced"  # by a second Ctrl-C


@dataclass(frozen=True)
class RunResult:
    """What came of a run.

    Attributes:
        why: of a stop: the signal's name; of spend: the budget that is used up.
        feasible: whether a trial on the front meets all limits.
        unconfirmed: nominees that could not be measured on the held-out items, with reasons.
    """

    ending: Ending
    why: str
    feasible: bool
    unconfirmed: Mapping[int, str]


def run(
    study: Study,
    *,
    workers: int | None = None,
    trials: int | None = None,
    only: int | None = None,
    control: bool = False,
    on_event: OnEvent = lambda event: None,
    grace: float = GRACE,
) -> RunResult:
    """Run a campaign, or go on with it, until its budget is used up or a signal stops it.

    The budget of hours bounds the search; control and confirmation come after it, or what was paid
    for would not be known.

    Args:
        study: open for writing; it stays open.
        workers: how many attempts run at once; None for the campaign's number, else one per GPU,
            else one. More than the campaign's lookahead + 1 cannot be kept busy.
        trials: a budget in place of the campaign's.
        only: a trial to measure and confirm, whatever the budgets of trials and hours say; nothing
            is asked, and no other trial is touched.
        control: measure a random search of as many trials after the search.
        on_event: told of every step; what it raises ends the run.
        grace: seconds that attempts have to finish after the first Ctrl-C.

    Raises:
        ObjectiveError: if the failure budget is spent, or workers cannot start.
        EvomergeError: if a model's file broke, the disk is full, or the study cannot be written.
    """
    kill_marked(marker_of(study.folder), prefix=True)  # of a coordinator that was killed
    _remove(study.folder / SCRATCH)
    if trials is not None:
        study.limit = trials
    devices = cuda_devices()
    count = workers or study.campaign.workers or max(1, len(devices))
    engine = LocalEngine(_terms(study), workers=count, devices=devices)
    with Interrupts() as interrupts:
        session = _Session(
            study, engine, interrupts, on_event, workers=count, grace=grace, only=only
        )
        try:
            ending = session.search()
            if control and ending in (Ending.FINISHED, Ending.OUT_OF_TIME):
                ending = session.control() or ending
            if ending in (Ending.FINISHED, Ending.OUT_OF_TIME):
                ending = session.confirm() or ending
        except KeyboardInterrupt:
            ending = Ending.FORCED
        finally:
            interrupts.ignore()
            session.close()
    why = session.spent or "" if ending is Ending.OUT_OF_SPEND else interrupts.why
    return RunResult(ending, why, confirmation.is_feasible(study), dict(session.unconfirmed))


def _terms(study: Study) -> Terms:
    campaign = study.campaign
    return Terms(
        Setup(
            campaign.path,
            campaign.source_text,
            endpoints=study.folder.resolve() / ENDPOINTS,
        ),
        study.folder.resolve(),
        Limits(attempt=campaign.timeout),
        isolate=campaign.isolate,
    )


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Task:
    candidate: Candidate
    splits: tuple[Split, ...]


@dataclass(frozen=True)
class _Running:
    attempt: Attempt
    worker: str
    phase: Phase
    task: _Task


class _Session:
    """One run: what is under way, and what it has seen of the clock and of failures."""

    def __init__(
        self,
        study: Study,
        engine: LocalEngine,
        interrupts: Interrupts,
        on_event: OnEvent,
        *,
        workers: int,
        grace: float,
        only: int | None,
    ) -> None:
        self.unconfirmed: dict[int, str] = {}
        self.spent: str | None = None  # the budget that is used up
        self._costs = Costs(study)
        self._tested = not self._costs.tested
        self._study = study
        self._folder = study.folder.resolve()  # for workers, whose objectives may change theirs
        self._engine = engine
        self._interrupts = interrupts
        self._emit = on_event
        self._workers = workers
        self._grace = grace
        self._only = only
        self._failures = FailureBudget()
        self._running: dict[int, _Running] = {}
        self._to_confirm: deque[_Task] = deque()
        self._tries: Counter[int] = Counter()
        self._wall = study.spend().wall_seconds
        self._noted = time.monotonic()

    def search(self) -> Ending:
        """Ask and measure until the budget is used up."""
        self._emit(PhaseBegan("search", self._study.limit, self._workers))
        if self._drive("search", self._next_of_search):
            return Ending.STOPPED
        if self.spent:
            return Ending.OUT_OF_SPEND
        finished = self._only is not None or (self._study.exhausted and not self._out_of_time())
        return Ending.FINISHED if finished else Ending.OUT_OF_TIME

    def control(self) -> Ending | None:
        """Measure the control's trials; None unless it was stopped."""
        return self._driven("search", self._next_of_control)

    def confirm(self) -> Ending | None:
        """Measure the nominees on the held-out items; None unless it was stopped."""
        self._to_confirm.extend(self._unmeasured())
        self._emit(PhaseBegan("confirmation", len(self._to_confirm), self._workers))
        return self._driven(
            "confirmation", lambda: self._to_confirm.popleft() if self._to_confirm else None
        )

    def _driven(self, phase: Phase, next_task: Callable[[], _Task | None]) -> Ending | None:
        stopped = self._drive(phase, next_task)
        if self.spent and not stopped:
            return Ending.OUT_OF_SPEND
        return Ending.STOPPED if stopped else None

    def close(self) -> None:
        """End the workers, hand back what they had not finished, and note the time."""
        for job in self._engine.stop():
            if job.probe:
                continue
            attempt = self._running.pop(job.attempt).attempt
            answer = kept_answer(job)  # it may have finished after all
            with suppress(EvomergeError):  # then the next opening recovers it
                if answer is None or answer.broken is not None:
                    self._study.end(attempt, Outcome.LOST, reason="handed back")
                else:
                    self._store(attempt, answer)
        _remove(self._folder / SCRATCH)
        with suppress(EvomergeError):
            self._note_wall(0.0)
            self._costs.close()

    def _drive(self, phase: Phase, next_task: Callable[[], _Task | None]) -> bool:
        """Run tasks until there are none; whether it was stopped."""
        stop_at: float | None = None
        while self._interrupts.urgency < Urgency.HAND_BACK:
            if self._interrupts.urgency is Urgency.FINISH and stop_at is None:
                stop_at = time.monotonic() + self._grace
                self._emit(Stopping(self._interrupts.why, len(self._engine.running), self._grace))
            if stop_at is None:
                self._fill(phase, next_task)
            if not self._engine.running and not self._interrupts.urgency:
                return False
            if stop_at is not None and (not self._engine.running or time.monotonic() > stop_at):
                return True
            for answer in self._engine.wait(_LOOK):
                self._end(answer)
            self._note_wall(_WALL)
        return True

    def _fill(self, phase: Phase, next_task: Callable[[], _Task | None]) -> None:
        with suppress(Interrupted):
            while self._engine.free and self._affordable() and (task := next_task()) is not None:
                if self._passes_self_test():
                    self._begin(phase, task)

    def _next_of_search(self) -> _Task | None:
        if self._only is not None:
            trial = self._study.trial(self._only)
            waits = trial.state is TrialState.PENDING
            return _Task(trial.candidate, ("search",)) if waits else None
        if self._out_of_time():
            return None
        with self._interrupts.breakable():
            candidate = self._study.ask_next()
        return None if candidate is None else _Task(candidate, ("search",))

    def _next_of_control(self) -> _Task | None:
        candidate = next_control(self._study)
        return None if candidate is None else _Task(candidate, ("search",))

    def _affordable(self) -> bool:
        self.spent = self.spent or self._costs.exhausted()
        return self.spent is None

    def _passes_self_test(self) -> bool:
        """Ask the endpoints the test questions, once, before the first attempt of a run.

        Raises:
            ObjectiveError: if a server does not do what it is told.
        """
        if self._tested:
            return True
        job = probe_job(self._study)
        self._engine.submit(job)
        answers: list[Answer] = []
        with self._interrupts.breakable():
            while not answers:
                answers = self._engine.wait(_LOOK)
        self._pay(answers[0])
        if self.spent is None and answers[0].outcome is not Outcome.SUCCEEDED:
            raise ObjectiveError(
                f"the self-test failed: {answers[0].reason}", place=str(job.folder)
            )
        self._tested = self.spent is None
        return self._tested

    def _pay(self, answer: Answer) -> None:
        self.spent = self.spent or answer.spent
        if self._costs.settle():
            self._emit(Paid(self._costs.spent))

    def _begin(self, phase: Phase, task: _Task) -> None:
        candidate, worker = task.candidate, self._engine.next_worker()
        attempt = self._study.begin(candidate.number, task.splits, worker)
        reach("loop.before-submit")
        self._running[attempt.id] = _Running(attempt, worker, phase, task)
        self._engine.submit(
            Job(
                attempt.id,
                attempt.token,
                candidate.number,
                attempt_folder(self._folder, attempt.id),
                self._folder / SCRATCH,
                candidate.method,
                candidate.parameters,
                self._study.items_of(attempt),
            )
        )
        self._emit(AttemptBegan(phase, attempt.id, worker, candidate, task.splits))

    def _end(self, answer: Answer) -> None:
        reach("loop.before-end")
        self._pay(answer)
        if answer.attempt == NOBODY:  # a self-test that a signal broke off
            return
        running = self._running[answer.attempt]
        if answer.outcome is not Outcome.SUCCEEDED:  # its worker may have had no time to
            _remove(scratch_folder(self._folder, answer.attempt))
        self._store(running.attempt, answer)
        del self._running[answer.attempt]
        trial = self._study.trial(answer.trial)
        self._emit(
            AttemptEnded(
                running.phase,
                answer.attempt,
                running.worker,
                trial,
                running.task.splits,
                answer.outcome,
                answer.reason,
                answer.seconds,
            )
        )
        if running.phase == "confirmation":
            self._judge_confirmation(running.task, answer)
        elif trial.state in (TrialState.DONE, TrialState.FAILED) and not is_control(trial):
            self._failures.count(trial.number, trial.reason)

    def _judge_confirmation(self, task: _Task, answer: Answer) -> None:
        """Trials keep their state here; what cannot be confirmed is said in the result."""
        number = task.candidate.number
        if answer.outcome is Outcome.SUCCEEDED or answer.spent:
            return
        self._tries[number] += 1
        dies = answer.outcome in (Outcome.CRASHED, Outcome.OUT_OF_MEMORY)
        if dies and self._tries[number] < _TRIES:
            self._to_confirm.append(task)
            return
        self.unconfirmed[number] = answer.reason or str(answer.outcome)

    def _store(self, attempt: Attempt, answer: Answer) -> None:
        self._study.end(
            attempt,
            answer.outcome,
            evaluations=answer.evaluations,
            reason=answer.reason,
            seconds=answer.seconds or None,
        )

    def _unmeasured(self) -> list[_Task]:
        found = confirmation.unmeasured(self._study, self._only)
        return [_Task(trial.candidate, splits) for trial, splits in found]

    def _out_of_time(self) -> bool:
        hours = self._study.campaign.budget.hours
        running = time.monotonic() - self._noted
        return hours is not None and self._wall + running >= hours * 3600

    def _note_wall(self, after: float) -> None:
        """Store the time that has run, once it is `after` seconds."""
        now = time.monotonic()
        if now - self._noted >= after:
            self._study.add_wall_seconds(now - self._noted)
            self._wall += now - self._noted
            self._noted = now
