"""The sampler's log: the history of asks and ends, in the order in which asks saw them.

It is derived from the database alone: before the ask numbered n come the trials whose
``visible_from`` is n, by number. References outside the space are in no log, nor are asides, and
numbers are counted without these.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from evomerge.goals import Goal, item_losses, losses, violation
from evomerge.interfaces import Asked, ItemLosses, Observation
from evomerge.study.asides import load_asides, place_of
from evomerge.study.database import Database
from evomerge.study.rows import load_scores, load_trials
from evomerge.study.stages import load_stages, whole_scores
from evomerge.trial import Trial


class StudyLog:
    """A list that only grows; implements `evomerge.interfaces.Log`."""

    def __init__(self, events: Sequence[Asked | Observation] = ()) -> None:
        self._events = list(events)

    def __len__(self) -> int:
        return len(self._events)

    def events(self, start: int = 0) -> Iterator[Asked | Observation]:
        """Events from a position on."""
        return islice(self._events, start, None)

    def append(self, event: Asked | Observation) -> None:
        """Adds what the next ask sees."""
        self._events.append(event)


def load_log(database: Database, goals: Sequence[Goal]) -> StudyLog:
    """The log as the database has it."""
    with database.snapshot():
        trials = load_trials(database)
        rows = database.rows("SELECT number, own, note FROM candidates ORDER BY number")
        asides = load_asides(database)
    seen: Mapping[int, list[Observation]] = defaultdict(list)
    for trial in trials:
        observed = observation(database, goals, trial, place=place_of(trial.number, asides))
        if trial.visible_from is not None and observed is not None:
            seen[trial.visible_from].append(observed)
    log = StudyLog()
    for trial, (number, own, note) in zip(trials, rows, strict=True):
        for observed in seen.get(number, ()):
            log.append(observed)
        if trial.candidate.point is not None:
            place = place_of(number, asides)
            log.append(Asked(place, trial.candidate.point, bool(own), json.loads(note)))
    return log


def observation(
    database: Database, goals: Sequence[Goal], trial: Trial, *, place: int
) -> Observation | None:
    """An ended trial as a sampler sees it; None if it lies outside the space.

    Args:
        database: where `Observation.read_items` looks.
        place: the trial's number among those of the search.
    """
    point, measured = trial.candidate.point, trial.results.get("search")
    if point is None:
        return None
    if not measured:
        return Observation(place, point, None, None)
    values = {metric: result.mean for metric, result in measured.items()}
    errors = [measured[goal.metric].standard_error for goal in goals]

    def read_items() -> tuple[ItemLosses, ...]:
        if trial.chance is not None:
            return item_losses(goals, whole_scores(load_stages(database, trial.number)))
        return item_losses(goals, load_scores(database, trial.number, "search"))

    return Observation(
        number=place,
        point=point,
        losses=losses(goals, [values])[0],
        violation=violation(goals, values),
        standard_errors=np.array([np.nan if e is None else e for e in errors], dtype=float),
        read_items=read_items,
    )
