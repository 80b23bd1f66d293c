"""Asks: references first, then the sampler, with what each ask may see.

The ask numbered n in the loop sees exactly the ends of the trials numbered up to
n - 1 - lookahead, so neither the number of workers nor their timing can change a proposal. An ask
by hand sees everything told. Asides are counted nowhere here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.errors import StudyError
from evomerge.interfaces import Asked, Proposal, Sampler
from evomerge.space import Array
from evomerge.study import journal
from evomerge.study.asides import CONTROL, load_asides, number_at, place_of
from evomerge.study.charter import Charter
from evomerge.study.database import Database
from evomerge.study.log import StudyLog, load_log, observation
from evomerge.study.rows import load_trials, store_candidate
from evomerge.study.schema import RACES
from evomerge.trial import Candidate, Trial

if TYPE_CHECKING:
    from evomerge.recipe.recipe import BoundRecipe


@dataclass(frozen=True)
class Source:
    """Where candidates come from.

    Attributes:
        recipe: of the references and the space.
        sampler: makes a fresh one; called again whenever its memory is not to be trusted.
    """

    recipe: BoundRecipe
    sampler: Callable[[], Sampler]


@dataclass(frozen=True)
class _Step:
    candidate: Candidate
    own: bool
    note: Mapping[str, Any]


@dataclass
class Asking:
    """The state of asking: a log and a sampler that have read the database, both only caches."""

    database: Database
    charter: Charter
    source: Source
    handed: set[int] = field(default_factory=set)
    _log: StudyLog | None = None
    _sampler: Sampler | None = None

    @property
    def asked(self) -> int:
        """How many trials were asked: the number of the next one."""
        row = self.database.row("SELECT coalesce(max(number) + 1, 0) FROM candidates")
        return int(row[0]) if row else 0

    def by_hand(self, count: int) -> list[Candidate]:
        """New candidates that see everything told."""
        return self._ask(count, cutoff=self.asked)

    def next(self, limit: int | None) -> Candidate | None:
        """The loop's next candidate; None if it must wait, or nothing more is to be asked.

        Args:
            limit: on the number of trials, those carried over by a fork not counted.
        """
        waiting = self._waiting()
        if waiting is None and not self.exhausted(limit) and self._may_ask():
            waiting = self._ask(1, cutoff=self._cutoff())[0]
        if waiting is not None:
            self.handed.add(waiting.number)
        return waiting

    def exhausted(self, limit: int | None) -> bool:
        """Whether nothing more is to be asked."""
        if self.asked < self.charter.references:
            return limit is not None and self.asked >= limit
        place = place_of(self.asked, load_asides(self.database))
        spent = limit is not None and place - self.charter.carried >= limit
        return spent or len(self.source.recipe.space) == 0

    def _waiting(self) -> Candidate | None:
        """The first trial that was asked, and is neither begun nor handed out."""
        rows = self.database.rows(
            "SELECT number FROM trials WHERE state IN ('pending', 'running') "
            "AND state = 'pending' ORDER BY number"
        )
        free = [number for (number,) in rows if number not in self.handed]
        if not free:
            return None
        return load_trials(self.database, "number = ?", free[:1])[0].candidate

    def _cutoff(self) -> int:
        """The last trial whose end the next ask sees; references see nothing, nor wait."""
        asked, asides = self.asked, load_asides(self.database)
        if asked < self.charter.references:
            return -1
        return number_at(place_of(asked, asides) - 1 - self.charter.lookahead, asides)

    def _may_ask(self) -> bool:
        row = self.database.row(
            "SELECT min(number) FROM trials WHERE state IN ('pending', 'running')"
        )
        return row is None or row[0] is None or row[0] > self._cutoff()

    def _ask(self, count: int, *, cutoff: int) -> list[Candidate]:
        try:
            first = self.asked
            asides = load_asides(self.database)
            fresh = self._newly_visible(cutoff)
            log = self._read_log()
            self._show(fresh, log, asides)
            steps = [self._step(first + i, log, asides) for i in range(count)]
            self._store(first, fresh, steps)
        except BaseException:
            self.forget()
            raise
        return [step.candidate for step in steps]

    def told(self) -> StudyLog:
        """A log of its own with everything told, as an ask by hand would see it."""
        with self.database.snapshot():
            log = load_log(self.database, self.charter.goals)
            self._show(self._newly_visible(self.asked), log, load_asides(self.database))
        return log

    def add_aside(self, origin: str, method: str, parameters: Mapping[str, float]) -> Candidate:
        """A pending trial beside the search; see `evomerge.study.asides`."""
        if self.asked < self.charter.references:
            raise StudyError("the references come first; the study has not begun")
        candidate = Candidate(self.asked, origin, method, dict(parameters), None)
        with self.database.transaction("aside"):
            store_candidate(self.database, candidate, own=False, note={})
            if origin == CONTROL:
                self.database.execute("UPDATE study SET readable_by = max(readable_by, ?)", [RACES])
            journal.write(self.database, "asked", trial=candidate.number, saw=0)
        return candidate

    def _show(self, trials: list[Trial], log: StudyLog, asides: Sequence[int]) -> None:
        for trial in trials:
            place = place_of(trial.number, asides)
            observed = observation(self.database, self.charter.goals, trial, place=place)
            if observed is not None:
                log.append(observed)

    def _newly_visible(self, cutoff: int) -> list[Trial]:
        rows = self.database.rows(
            "SELECT number FROM trials WHERE visible_from IS NULL "
            "AND state IN ('done', 'failed') AND number <= ? ORDER BY number",
            [cutoff],
        )
        return [trial for row in rows for trial in load_trials(self.database, "number = ?", row)]

    def _step(self, number: int, log: StudyLog, asides: Sequence[int]) -> _Step:
        place = place_of(number, asides)
        if number < self.charter.references:
            recipe = self.source.recipe
            references = recipe.references(parents=self.charter.parents)
            origin, method, parameters = references[number]
            point = recipe.point_of(parameters, method=method)
            step = _Step(Candidate(number, origin, method, dict(parameters), point), False, {})
        else:
            step = self._propose(number, log, place)
        if step.candidate.point is not None:
            log.append(Asked(place, step.candidate.point, step.own, step.note))
        return step

    def _propose(self, number: int, log: StudyLog, place: int) -> _Step:
        if self._sampler is None:
            self._sampler = self.source.sampler()
        proposal = self._sampler.ask(log, place)
        point = self._checked(proposal)
        recipe = self.source.recipe
        candidate = Candidate(
            number=number,
            origin=self._sampler.name,
            method=recipe.recipe.method,
            parameters=recipe.space.values(point),
            point=np.clip(point, 0.0, 1.0),
        )
        return _Step(candidate, True, dict(proposal.note))

    def _checked(self, proposal: Proposal) -> Array:
        point = np.array(proposal.point, dtype=float)
        wanted = (len(self.source.recipe.space),)
        if point.shape != wanted or not np.isfinite(point).all():
            raise StudyError(
                f"the sampler proposed {point!r:.80}; {wanted[0]} finite coordinates are wanted",
                kept="all told trials are kept",
            )
        return point

    def _store(self, first: int, fresh: list[Trial], steps: list[_Step]) -> None:
        with self.database.transaction("ask"):
            for trial in fresh:
                self.database.execute(
                    "UPDATE trials SET visible_from = ? WHERE number = ?", [first, trial.number]
                )
            for step in steps:
                store_candidate(self.database, step.candidate, own=step.own, note=step.note)
                journal.write(self.database, "asked", trial=step.candidate.number, saw=len(fresh))

    def _read_log(self) -> StudyLog:
        if self._log is None:
            self._log = load_log(self.database, self.charter.goals)
        return self._log

    def forget(self) -> None:
        """Drops the caches, which may have run ahead of the database; they are rebuilt from it."""
        self._log = self._sampler = None
