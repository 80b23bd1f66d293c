"""The study: every candidate asked and every score told, and what follows from them.

::

    with Study.open("campaign.yaml") as study:      # creates or resumes
        for candidate in study.ask(4):
            study.tell(candidate, {"gsm8k": Scores(items=[...], margins=[...])})
        print(study.front())

The database is the truth. What returns from `ask`, `tell`, `begin` or `end` is on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from evomerge.errors import UsageError
from evomerge.goals import Goal
from evomerge.interfaces import Log, Sampler
from evomerge.objectives.endpoint.store import Charge
from evomerge.recipe.campaign import Campaign
from evomerge.recipe.recipe import BoundRecipe
from evomerge.space import Array
from evomerge.study import folder as places
from evomerge.study import forking, fronts, journal, opening, recovery
from evomerge.study.asides import load_asides
from evomerge.study.asking import Asking, Source
from evomerge.study.backups import BackupClock
from evomerge.study.charter import Charter
from evomerge.study.database import Database
from evomerge.study.inputs import Input, load_inputs
from evomerge.study.lock import Lock
from evomerge.study.records import Attempt, AttemptRecord, Event, HistoryPoint, Spend
from evomerge.study.rows import load_attempts, load_scores, load_trials, load_values
from evomerge.study.telling import Telling, stored_reference
from evomerge.trial import Candidate, Evaluation, Outcome, Scores, Split, Trial, TrialState


class Study:
    """One recipe, its goals and seed, and all its trials; made by `open` or `read`.

    Attributes:
        folder: where it lies.
        limit: how many trials may be asked, those carried over by a fork not counted; the
            campaign's budget, unless a caller sets another.
    """

    def __init__(
        self,
        folder: Path,
        database: Database,
        charter: Charter,
        *,
        campaign: Campaign | None = None,
        lock: Lock | None = None,
        session: int = 0,
    ) -> None:
        self.folder = folder
        self.charter = charter
        self.limit = campaign.budget.trials if campaign is not None else charter.trials
        self._database = database
        self._campaign = campaign
        self._lock = lock
        self._telling = Telling(database, charter, session)
        self._backups = BackupClock(folder / places.BACKUP)

    @classmethod
    def open(
        cls, campaign: Path | str | Campaign, *, fork: bool = False, wait_seconds: float = 0.0
    ) -> Study:
        """Creates or resumes a study, as its only writer.

        Attempts that a dead coordinator left running are ended: told if their workers wrote
        results, else lost.

        Args:
            campaign: a campaign file, a study's folder, or a campaign.
            fork: where the campaign was edited in a way that changes results, start a new study
                beside the old one, with the old trials that still mean the same.
            wait_seconds: how long to wait for another writer to finish.

        Raises:
            StudyLockedError: if another process has it open.
            StudyMismatchError: if the campaign or its inputs differ from the study's.
            StudyDamagedError: if the database is not whole, or not there any more.
            EvomergeError: of the campaign or the checkpoints.
        """
        wanted, place = opening.located(campaign)
        held = forking.hold(wanted, place, fork=fork, wait_seconds=wait_seconds)
        try:
            study = cls(
                held.folder,
                held.database,
                held.charter,
                campaign=wanted,
                lock=held.lock,
                session=held.session,
            )
            recovery.recover(study._telling, study.folder)
        except BaseException:
            held.close()
            raise
        return study

    @classmethod
    def read(cls, place: Path | str) -> Study:
        """Opens a study's folder, or a campaign's, to look at it, also while another writes.

        Raises:
            StudyError: if there is none.
            StudyDamagedError: if the database is not whole.
        """
        path = Path(place).expanduser()
        folder = path if path.is_dir() else forking.find(Campaign.load(path))
        places.check_there(folder, None if path.is_dir() else path)
        database = Database(folder / places.DATABASE, mode="read")
        try:
            return cls(folder, database, opening.load_charter(database))
        except BaseException:
            database.close()
            raise

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The files of base, models and objectives that the trials were measured with."""
        return load_inputs(self._database)

    def close(self) -> None:
        """Lets the next writer in; twice is harmless."""
        self._database.close()
        if self._lock is not None:
            self._lock.release()

    @cached_property
    def campaign(self) -> Campaign:
        """The campaign: as opened; else its file; where that is gone, as it was last opened."""
        if self._campaign is not None:
            return self._campaign
        return opening.stored_campaign(self._database, self.folder)

    @cached_property
    def recipe(self) -> BoundRecipe:
        """The recipe, bound to the base model, whose headers are read for it."""
        return opening.bind(self.campaign)

    @property
    def name(self) -> str:
        """For humans: the folder's name."""
        return self.charter.name

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What is measured, in the campaign's order."""
        return self.charter.goals

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self.charter.seed

    @cached_property
    def sampler(self) -> Sampler:
        """The sampler, for its name; asks make their own as they need it."""
        return self._make_sampler()

    def _make_sampler(self) -> Sampler:
        from evomerge.search.registry import make_sampler

        spec, problem = self.campaign.sampler, self.charter.problem(self.recipe.space)
        return make_sampler(spec.name, problem, spec.options)

    @cached_property
    def _asking(self) -> Asking:
        return Asking(self._database, self.charter, Source(self.recipe, self._make_sampler))

    def ask(self, count: int = 1) -> list[Candidate]:
        """New candidates, by hand: they see everything told. In one transaction.

        Raises:
            UsageError: if ``count`` is less than 1, or there is nothing to search.
        """
        if count < 1:
            raise UsageError(f"{count} candidates were asked for; 1 or more are wanted")
        return self._asking.by_hand(count)

    def ask_next(self) -> Candidate | None:
        """The loop's next candidate: a waiting trial, or a new one under the window's rule.

        It is handed out once; `begin` follows. None if trials must end first, or if the budget
        is spent (`exhausted`).
        """
        while True:
            candidate = self._asking.next(self.limit)
            if candidate is None:
                return None
            recovery.salvage(self._telling, self.folder, candidate)
            if self.trial(candidate.number).state is TrialState.PENDING:
                return candidate
            self._asking.handed.discard(candidate.number)

    def told(self) -> Log:
        """Everything told, as a sampler would see it now."""
        return self._asking.told()

    def add_aside(self, origin: str, parameters: Mapping[str, float]) -> Candidate:
        """A pending trial of the recipe's method that no sampler sees; `loop.measure` follows."""
        return self._asking.add_aside(origin, self.recipe.recipe.method, parameters)

    @property
    def exhausted(self) -> bool:
        """Whether no new trial will be asked; earlier ones may still wait or run."""
        return self._asking.exhausted(self.limit)

    def tell(
        self,
        trial: int | Candidate,
        scores: Mapping[str, Any],
        *,
        split: Split = "search",
        seconds: float = 0.0,
    ) -> Trial:
        """Records scores, by hand; telling the same again changes nothing.

        Args:
            scores: for every goal: `Scores`, a mapping with ``items`` and perhaps ``margins``,
                one number per item of the split, or one number: the mean.
            seconds: what the evaluation took.

        Raises:
            UsageError: on an unknown trial, or scores that do not fit the goals.
            StudyError: if the trial was told other scores before, or has failed.
        """
        number = trial.number if isinstance(trial, Candidate) else trial
        told = self._telling.tell(number, scores, split, seconds)
        self._backup_at_times()
        return told

    def begin(self, trial: int, split: Split | Sequence[Split], worker: str) -> Attempt:
        """Records that an attempt at a trial starts, before it does.

        Raises:
            StudyError: if the trial is measured there already, or runs.
        """
        splits = (split,) if isinstance(split, str) else tuple(split)
        attempt = self._telling.begin(trial, splits, worker)
        self._asking.handed.discard(trial)
        return attempt

    def end(
        self,
        attempt: Attempt,
        outcome: Outcome,
        *,
        evaluations: Mapping[Split, Evaluation] | None = None,
        reason: str | None = None,
        seconds: float | None = None,
    ) -> None:
        """Records how an attempt ended; again for the same attempt changes nothing.

        Lost attempts put their trial back; so do crashes and lack of memory, until the candidate
        has killed `telling.KILLS` workers. Any other failure fails the trial. Only attempts on
        the search items change a trial's state.

        Args:
            evaluations: by split, if it succeeded; unfit scores make the outcome ``invalid``.
            seconds: wall time of the attempt; by default the time since it began.
        """
        self._telling.end(attempt, outcome, evaluations or {}, reason, seconds)
        self._backup_at_times()

    def items_of(self, attempt: Attempt) -> dict[Split, dict[str, tuple[int, ...] | None]]:
        """What an attempt measures: indices of items by metric, by split."""
        return self._telling.items_of(attempt)

    def add_wall_seconds(self, seconds: float) -> None:
        """Adds to the time that the loop has run, which the budget of hours is about."""
        with self._database.transaction("spend"):
            journal.spend(self._database, self._telling.session, "wall_seconds", seconds)

    def trials(self, *, state: TrialState | None = None) -> list[Trial]:
        """Trials in order of their numbers."""
        if state is None:
            return load_trials(self._database)
        return load_trials(self._database, "state = ?", [state])

    def trial(self, number: int) -> Trial:
        """One trial.

        Raises:
            UsageError: if there is none of this number.
        """
        found = load_trials(self._database, "number = ?", [number])
        if not found:
            raise UsageError(f"there is no trial {number} in this study", place=str(self.folder))
        return found[0]

    def scores(self, trial: int, split: Split, metric: str) -> Scores:
        """Scores item by item.

        Raises:
            UsageError: if that was not measured.
        """
        found = load_scores(self._database, trial, split)
        if metric not in found:
            raise UsageError(f"trial {trial} was not measured for {metric} on the {split} items")
        return found[metric]

    def attempts(self, trial: int | None = None) -> list[AttemptRecord]:
        """Attempts in the order in which they began, of one trial or of all."""
        return load_attempts(self._database, trial)

    def attempt_folder(self, attempt: int | Attempt) -> Path:
        """Where an attempt's log and ``result.json`` go; it need not exist yet."""
        number = attempt.id if isinstance(attempt, Attempt) else attempt
        return places.attempt_folder(self.folder, number)

    def events(self, after: int = 0) -> Iterator[Event]:
        """The append-only log, from behind an event's id on."""
        return journal.read(self._database, after)

    def items(self, metric: str, split: Split) -> tuple[int, ...] | None:
        """Indices of a split's items, ascending; None for an objective without items."""
        return self.charter.items(metric, split)

    @property
    def reference_point(self) -> Array | None:
        """The loss vector that bounds the hypervolume, ``(m,)``.

        None until the charter's anchors have ended; from then on it never changes.
        """
        return stored_reference(self._database)

    def front(self, split: Split = "search") -> list[Trial]:
        """The non-dominated trials on a split; where none meets the limits, the nearest."""
        numbers = fronts.front_of(self.goals, load_values(self._database, split))
        return [self.trial(number) for number in numbers]

    def hypervolume(self, split: Split = "search") -> float | None:
        """What the feasible trials dominate; None until the reference point is fixed."""
        reference, values = self.reference_point, load_values(self._database, split)
        return None if reference is None else fronts.hypervolume_of(self.goals, values, reference)

    def history(self) -> list[HistoryPoint]:
        """The hypervolume after each measured trial; empty until the reference point is fixed."""
        reference, values = self.reference_point, load_values(self._database, "search")
        return [] if reference is None else fronts.history_of(self.goals, values, reference)

    def spend(self) -> Spend:
        """What the study has cost so far, over all its sessions."""
        beside = len(load_asides(self._database))
        return journal.total(self._database, beside=self.charter.carried + beside)

    def costs(self) -> dict[int, Charge]:
        """What each attempt has cost at endpoints; 0 is the self-tests."""
        return journal.load_costs(self._database)

    def settle_costs(self, costs: Mapping[int, Charge]) -> None:
        """Records sums by attempt in place of those recorded before."""
        with self._database.transaction("costs"):
            journal.store_costs(self._database, costs)

    def export(
        self, out: Path | str, *, trial: int | None = None, dtype: str | None = None
    ) -> list[Path]:
        """Writes the Pareto set, or one trial, as checkpoints; see `evomerge.export.front`.

        Args:
            out: gets a folder for each merge; made if it is not there.
            dtype: of the written tensors, ``bfloat16`` say; the campaign's by default.
        """
        from evomerge.export.front import export  # it looks at studies, so it imports this module

        return export(self, Path(out), trial=trial, dtype=dtype)

    def backup(self) -> Path:
        """Copies the database beside itself, whole and consistent; `repair` starts from it."""
        target = self.folder / places.BACKUP
        self._database.copy_to(target)
        self._backups.done()
        return target

    def _backup_at_times(self) -> None:
        if self._backups.due():
            self.backup()
