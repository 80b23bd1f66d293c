"""How far a run is, kept up by the loop's events, so that drawing it reads no database."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from evomerge import pareto
from evomerge.goals import Goal, losses, violation
from evomerge.objectives.endpoint.store import Charge
from evomerge.space import Array
from evomerge.study.control import is_control
from evomerge.study.events import AttemptBegan, AttemptEnded, Event, Paid, PhaseBegan, Stopping
from evomerge.study.study import Study
from evomerge.trial import Outcome, Trial, TrialState


@dataclass
class Progress:
    """Counts, front and pace of a run.

    Attributes:
        running: attempt number to the candidate's trial number.
        front: trials that nothing measured so far dominates, on the search items.
        done, failed: trials of the budget in these states; not what a fork brought along.
        done_here: trials that ended since the run began, for the pace.
        spent: at endpoints, over all runs; None where nothing was.
    """

    study: Study
    limit: int | None
    clock: Callable[[], float] = time.monotonic
    phase: str = "search"
    workers: int = 0
    running: dict[int, int] = field(default_factory=dict)
    front: list[Trial] = field(default_factory=list)
    done: int = 0
    failed: int = 0
    done_here: int = 0
    confirmed: int = 0
    to_confirm: int | None = None
    stopping: str | None = None
    hypervolume: float | None = None
    spent: Charge | None = None
    _started: float = 0.0
    _reference: Array | None = None

    def __post_init__(self) -> None:
        self._started = self.clock()
        for trial in self.study.trials():
            if not is_control(trial):
                self._count(trial)
        self._measure()

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The study's goals."""
        return self.study.goals

    @property
    def seconds(self) -> float:
        """Since this run began."""
        return self.clock() - self._started

    @property
    def seconds_left(self) -> float | None:
        """At this run's pace; None before the first trial ended, or without a limit."""
        if self.limit is None or not self.done_here:
            return None
        left = max(0, self.limit - self.done - self.failed)
        return left * self.seconds / self.done_here

    def update(self, event: Event) -> None:
        """Take in one event of the loop."""
        match event:
            case PhaseBegan():
                self.phase, self.workers = event.phase, event.workers
                if event.phase == "confirmation":
                    self.to_confirm = event.attempts
            case AttemptBegan():
                self.running[event.attempt] = event.candidate.number
            case AttemptEnded():
                self._ended(event)
            case Stopping():
                self.stopping = event.why
            case Paid():
                self.spent = event.spent

    def _ended(self, event: AttemptEnded) -> None:
        self.running.pop(event.attempt, None)
        if event.phase == "confirmation":
            self.confirmed += event.outcome is Outcome.SUCCEEDED
            return
        if is_control(event.trial):
            return
        self.done_here += event.trial.state in (TrialState.DONE, TrialState.FAILED)
        self._count(event.trial)
        self._measure()

    def _count(self, trial: Trial) -> None:
        charter = self.study.charter
        counts = not 0 <= trial.number - charter.references < charter.carried
        self.failed += counts and trial.state is TrialState.FAILED
        if trial.state is not TrialState.DONE:
            return
        self.done += counts
        if trial.chance is not None:
            return
        candidates = [*self.front, trial]
        values = [one.values() or {} for one in candidates]
        missed = np.array([violation(self.goals, value) for value in values])
        keep = pareto.non_dominated(losses(self.goals, values), missed)
        self.front = [one for one, kept in zip(candidates, keep, strict=True) if kept]

    def _measure(self) -> None:
        if self._reference is None:
            self._reference = self.study.reference_point
        if self._reference is None:
            return
        values = [trial.values() or {} for trial in self.front]
        feasible = [value for value in values if violation(self.goals, value) == 0]
        self.hypervolume = pareto.hypervolume(losses(self.goals, feasible), self._reference)


def clock_text(seconds: float | None) -> str:
    """``1:02:03`` or ``2:03``; a dash for None."""
    if seconds is None:
        return "–"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
