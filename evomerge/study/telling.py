"""Tells: what ends an attempt or a trial, each in one transaction, each idempotent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evomerge.errors import StudyError, UsageError
from evomerge.goals import losses, reference_point
from evomerge.space import Array
from evomerge.study import journal
from evomerge.study.asides import load_asides, number_at
from evomerge.study.charter import Charter
from evomerge.study.database import Database, Row
from evomerge.study.digests import candidate_digest, digest
from evomerge.study.races import Races, Verdict
from evomerge.study.records import Attempt
from evomerge.study.rows import (
    load_scores,
    load_trials,
    packed,
    store_scores,
    store_value,
    unpacked,
)
from evomerge.study.stages import store_stage
from evomerge.trial import (
    Candidate,
    Evaluation,
    InvalidScoresError,
    Outcome,
    Scores,
    Split,
    Trial,
    TrialState,
)

KILLS = 3
"""A candidate that kills this many workers is quarantined: its trial fails."""

_KILLING = (Outcome.CRASHED, Outcome.OUT_OF_MEMORY)
_ENDED = (TrialState.DONE, TrialState.FAILED)


@dataclass(frozen=True)
class Telling:
    """Writes ends into the database.

    Attributes:
        session: number of this opening of the study, for tokens and spend.
    """

    database: Database
    charter: Charter
    session: int

    @property
    def races(self) -> Races:
        """Of this study."""
        return Races(self.database, self.charter)

    def tell(
        self, number: int, answers: Mapping[str, object], split: Split, seconds: float
    ) -> Trial:
        """Records scores told by hand; see `evomerge.study.study.Study.tell`."""
        try:
            scores = self.charter.checked(answers, split, means=True)
            evaluation = Evaluation(scores, seconds)
        except InvalidScoresError as error:
            raise UsageError(error.cause, kept=f"trial {number} is as it was") from error
        with self.database.transaction("tell"):
            trial = self._trial(number)
            told = load_scores(self.database, number, split)
            if told:
                self._check_equal(number, split, told, evaluation.scores)
                return trial
            if trial.state is TrialState.FAILED:
                raise StudyError(
                    f"trial {number} has failed ({trial.reason}); its end stays as it is"
                )
            if split == "search" and trial.chance is not None:
                raise StudyError(
                    f"trial {number} has lost its race; a told trial is never changed",
                    kept="its estimates are kept",
                )
            self._store(number, split, evaluation.scores, attempt=None)
            journal.spend(self.database, self.session, "seconds", evaluation.seconds)
            journal.write(self.database, "told", trial=number, split=split)
            self.settle_reference()
            return self._trial(number)

    def _check_equal(
        self, number: int, split: Split, old: Mapping[str, Scores], new: Mapping[str, Scores]
    ) -> None:
        for metric, scores in new.items():
            before = old[metric]
            if tuple(scores.items) != tuple(before.items) or _bits(scores) != _bits(before):
                raise StudyError(
                    f"trial {number} was told {metric} = {before.mean:.6g} on the {split} items "
                    f"before, and now {scores.mean:.6g}; a told trial is never changed",
                    kept="the first values are kept",
                )

    def begin(self, number: int, splits: tuple[Split, ...], worker: str) -> Attempt:
        """Records that an attempt at a trial starts."""
        with self.database.transaction("begin"):
            trial = self._trial(number)
            self._check_open(trial, splits)
            token = f"{self.session}-{self.mark(trial.candidate, splits)}"
            attempt = self.database.execute(
                "INSERT INTO attempts (trial, splits, worker, token, started) "
                "VALUES (?, ?, ?, ?, ?)",
                [number, " ".join(splits), worker, token, time.time()],
            )
            if "search" in splits:
                self._set_state(number, TrialState.RUNNING)
            journal.write(self.database, "began", trial=number, attempt=attempt, worker=worker)
            return Attempt(attempt, number, splits, token)

    def mark(self, candidate: Candidate, splits: tuple[Split, ...]) -> str:
        """What an attempt at a candidate is about: its digest, and stage and items of its race."""
        stage = self.races.next_stage(candidate.number) if splits == ("search",) else None
        if stage is None:
            return candidate_digest(candidate)
        items = digest(self.races.items(candidate.number, stage))[:16]
        return f"{candidate_digest(candidate)}.{stage}.{items}"

    def items_of(self, attempt: Attempt) -> dict[Split, dict[str, tuple[int, ...] | None]]:
        """What an attempt measures: indices of items by metric, by split."""
        if attempt.stage is not None:
            return {"search": {**self.races.items(attempt.trial, attempt.stage)}}
        metrics = self.charter.metrics
        return {s: {m: self.charter.items(m, s) for m in metrics} for s in attempt.splits}

    def is_open(self, number: int, splits: tuple[Split, ...]) -> bool:
        """Whether an attempt at these splits could begin."""
        try:
            self._check_open(self._trial(number), splits)
        except StudyError:
            return False
        return True

    def _check_open(self, trial: Trial, splits: tuple[Split, ...]) -> None:
        measured = [split for split in splits if split in trial.results]
        if measured or not splits:
            raise StudyError(f"trial {trial.number} is measured on {measured} already")
        if "search" in splits and trial.state is not TrialState.PENDING:
            raise StudyError(f"trial {trial.number} is {trial.state}; only pending ones begin")

    def end(
        self,
        attempt: Attempt,
        outcome: Outcome,
        evaluations: Mapping[Split, Evaluation],
        reason: str | None,
        seconds: float | None,
    ) -> None:
        """Records how an attempt ended; see `evomerge.study.study.Study.end`."""
        checked: dict[Split, dict[str, Scores]] = {}
        if outcome is Outcome.SUCCEEDED:
            try:
                checked = self._checked(attempt, evaluations)
            except InvalidScoresError as error:
                outcome, reason = Outcome.INVALID, error.cause
        verdict = None
        if checked and attempt.stage is not None:
            verdict = self.races.verdict(attempt.trial, attempt.stage, checked["search"])
        with self.database.transaction("end"):
            row = self._attempt(attempt)
            if not _counts(row, outcome):
                return
            took = seconds if seconds is not None else max(0.0, time.time() - row[2])
            self._close(attempt, outcome, journal.shortened(reason), took, late=row[0] is not None)
            for split, scores in checked.items():
                self._store_once(attempt, split, scores, verdict)
            if outcome is not Outcome.SUCCEEDED and self._is_wanted(attempt):
                self._fail_or_requeue(attempt.trial, outcome, journal.shortened(reason))
            self.settle_reference()

    def _checked(
        self, attempt: Attempt, evaluations: Mapping[Split, Evaluation]
    ) -> dict[Split, dict[str, Scores]]:
        if set(evaluations) != set(attempt.splits):
            raise InvalidScoresError(
                f"the splits {sorted(evaluations)} were measured; "
                f"{sorted(attempt.splits)} were asked for"
            )
        stage = attempt.stage
        counts = None if stage is None else self.races.counts(attempt.trial, stage)
        return {
            split: self.charter.checked(evaluation.scores, split, counts=counts)
            for split, evaluation in evaluations.items()
        }

    def _is_wanted(self, attempt: Attempt) -> bool:
        """Whether the trial's state hangs on this attempt."""
        if "search" not in attempt.splits:
            return False
        return attempt.stage is None or not self.races.is_measured(attempt.trial, attempt.stage)

    def _attempt(self, attempt: Attempt) -> Row:
        row = self.database.row(
            "SELECT outcome, token, started, trial FROM attempts WHERE id = ?", [attempt.id]
        )
        if row is None or row[1] != attempt.token or row[3] != attempt.trial:
            raise StudyError(f"attempt {attempt.id} of token {attempt.token} is not this study's")
        return row

    def _close(
        self, attempt: Attempt, outcome: Outcome, reason: str | None, seconds: float, *, late: bool
    ) -> None:
        self.database.execute(
            "UPDATE attempts SET outcome = ?, reason = ?, seconds = ?, ended = ? WHERE id = ?",
            [outcome, reason, seconds, time.time(), attempt.id],
        )
        if not late:
            journal.spend(self.database, self.session, "seconds", seconds)
        journal.write(
            self.database, "ended", trial=attempt.trial, attempt=attempt.id, outcome=outcome
        )

    def _store_once(
        self, attempt: Attempt, split: Split, scores: Mapping[str, Scores], verdict: Verdict | None
    ) -> None:
        trial = self._trial(attempt.trial)
        if split in trial.results or trial.state is TrialState.FAILED:
            return  # another end came first, by hand or by a later attempt: the first counts
        if attempt.stage is None:
            self._store(attempt.trial, split, scores, attempt=attempt.id)
        elif not self.races.is_measured(attempt.trial, attempt.stage):
            self._store_stage(attempt, attempt.stage, scores, verdict)

    def _store_stage(
        self, attempt: Attempt, stage: int, scores: Mapping[str, Scores], verdict: Verdict | None
    ) -> None:
        number = attempt.trial
        store_stage(self.database, number, stage, scores, attempt.id)
        self._note_doubts(number, "search", scores, attempt=attempt.id)
        whole = self.races.finished(number)
        if whole is not None:
            self._store(number, "search", whole, attempt=None)
            return
        if verdict is None:
            self._set_state(number, TrialState.PENDING)
            return
        for metric, value in verdict.values.items():
            store_value(self.database, number, "search", metric, value, attempt=None)
        self.database.execute(
            "UPDATE trials SET chance = ? WHERE number = ?", [verdict.chance, number]
        )
        self._set_state(number, TrialState.DONE)

    def _store(
        self, number: int, split: Split, scores: Mapping[str, Scores], *, attempt: int | None
    ) -> None:
        store_scores(self.database, number, split, scores, attempt=attempt)
        self._note_doubts(number, split, scores, attempt=attempt)
        if split == "search":
            self._set_state(number, TrialState.DONE)

    def _note_doubts(
        self, number: int, split: Split, scores: Mapping[str, Scores], *, attempt: int | None
    ) -> None:
        rates = {metric: dict(found.rates) for metric, found in scores.items() if found.rates}
        if rates:
            about = {"split": split, "rates": rates}
            journal.write(self.database, "doubted", trial=number, attempt=attempt, **about)

    def _fail_or_requeue(self, number: int, outcome: Outcome, reason: str | None) -> None:
        if self._trial(number).state is not TrialState.RUNNING:
            return
        if outcome is Outcome.LOST or (outcome in _KILLING and self._kills(number) < KILLS):
            self._set_state(number, TrialState.PENDING)
            return
        said = f"{outcome}: {reason}" if reason else str(outcome)
        cause = f"killed {KILLS} workers; {said}" if outcome in _KILLING else said
        self._set_state(number, TrialState.FAILED, cause)

    def _kills(self, number: int) -> int:
        row = self.database.row(
            "SELECT count(*) FROM attempts WHERE trial = ? AND outcome IN (?, ?) "
            "AND ' ' || splits || ' ' LIKE '% search %'",
            [number, *_KILLING],
        )
        return int(row[0]) if row else 0

    def _set_state(self, number: int, state: TrialState, reason: str | None = None) -> None:
        self.database.execute(
            "UPDATE trials SET state = ?, reason = ? WHERE number = ?", [state, reason, number]
        )

    def _trial(self, number: int) -> Trial:
        found = load_trials(self.database, "number = ?", [number])
        if not found:
            raise UsageError(f"there is no trial {number} in this study")
        return found[0]

    def settle_reference(self) -> None:
        """Fixes the reference point, once: when all anchors have ended.

        Those that failed say nothing of it, nor do those that lost a race.
        """
        if stored_reference(self.database) is not None:
            return
        asides = load_asides(self.database)
        anchors = [self._asked_trial(number_at(a, asides)) for a in self.charter.anchors]
        if any(trial is None or trial.state not in _ENDED for trial in anchors):
            return
        whole = [trial for trial in anchors if trial is not None and trial.chance is None]
        values = [trial.values() for trial in whole]
        measured = [value for value in values if value is not None]
        if measured:
            goals = self.charter.goals
            store_reference(self.database, reference_point(goals, losses(goals, measured)))

    def _asked_trial(self, number: int) -> Trial | None:
        found = load_trials(self.database, "number = ?", [number])
        return found[0] if found else None


def stored_reference(database: Database) -> Array | None:
    """The loss vector that bounds the hypervolume, ``(m,)``; None until it is fixed."""
    row = database.row("SELECT reference FROM study")
    return None if row is None or row[0] is None else unpacked(row[0])


def store_reference(database: Database, reference: Array) -> None:
    """Fixes the reference point, inside the caller's transaction."""
    database.execute("UPDATE study SET reference = ?", [packed(reference)])
    journal.write(database, "reference", losses=np.asarray(reference).tolist())


def _counts(row: Row, outcome: Outcome) -> bool:
    """Whether an end is news: the first, or a result that comes after its attempt was given up."""
    return row[0] is None or (row[0] == Outcome.LOST and outcome is Outcome.SUCCEEDED)


def _bits(scores: Scores) -> bytes | None:
    return None if scores.margins is None else packed(scores.margins)
