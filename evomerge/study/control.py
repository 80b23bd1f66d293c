"""The control: a random search with as many trials, which says what the campaign's own was worth.

Its trials are asides, so the sampler never sees them and asks what it would have asked; no front
and no hypervolume of the study counts them. They come after the search, are measured on all search
items, and their front is confirmed like the study's. The references belong to both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evomerge.goals import losses, violation
from evomerge.pareto import hypervolume
from evomerge.randomness import generator
from evomerge.study.asides import CONTROL
from evomerge.study.fronts import front_of, largest
from evomerge.study.references import is_reference
from evomerge.trial import Candidate, Outcome, Split, Trial, TrialState

if TYPE_CHECKING:
    from evomerge.space import Array
    from evomerge.study.study import Study

_RESAMPLED = 400
_INTERVAL = (0.025, 0.975)


def next_control(study: Study) -> Candidate | None:
    """The control's next trial, new or waiting; None once it has as many as the search asked."""
    trials = study.trials()
    controls = [trial for trial in trials if is_control(trial)]
    for trial in controls:
        if trial.state is TrialState.PENDING:
            return trial.candidate
    first = study.charter.references + study.charter.carried
    own = [t for t in trials if t.number >= first and t.candidate.point is not None]
    if len(controls) >= len(own):
        return None
    space = study.recipe.space
    point = generator(study.seed, CONTROL, len(controls)).random(len(space))
    return study.add_aside(CONTROL, space.values(point))


def is_control(trial: Trial) -> bool:
    """Whether a trial is of the control."""
    return trial.candidate.origin == CONTROL and trial.candidate.point is None


def control_front(study: Study, split: Split) -> list[Trial]:
    """What the control would hand over: its front, the study's references among it."""
    return _front(study, [t for t in study.trials() if is_control(t) or is_reference(t)], split)


def control_nominees(study: Study) -> list[Trial]:
    """Of the control's search front, what is confirmed."""
    return largest(study.goals, control_front(study, "search"), study.reference_point)


def _front(study: Study, trials: Sequence[Trial], split: Split) -> list[Trial]:
    values = {t.number: found for t in trials if (found := t.values(split)) is not None}
    numbers = set(front_of(study.goals, values)) if values else set()
    return [trial for trial in trials if trial.number in numbers]


@dataclass(frozen=True)
class Comparison:
    """The hypervolumes of what search and control hand over.

    Attributes:
        split: the items that they are measured on: the search items until the whole of the
            control's front was confirmed; the test items, once both fronts were measured there,
            which the selection items chose.
        trials: of the control that have ended with values.
        low, high: of the difference, 95 %, by resampling the items, the same ones for both sides;
            None without items, or where a mean was told in place of them.
    """

    split: Split
    trials: int
    search: float
    control: float
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, Any]:
        """As a record."""
        return {**asdict(self), "difference": self.search - self.control}

    def __str__(self) -> str:
        interval = "" if self.low is None else f" (95 %: {self.low:.3g} to {self.high:.3g})"
        return (
            f"hypervolume {self.search:.4g} on the {self.split} items, {self.control:.4g} by "
            f"random search of {self.trials} trials; ahead by "
            f"{self.search - self.control:.3g}{interval}"
        )


def compare(study: Study) -> Comparison | None:
    """Search against control; None without a control, or before the reference point is fixed."""
    controls = [t for t in study.trials() if is_control(t) and t.values() is not None]
    reference = study.reference_point
    if not controls or reference is None:
        return None
    confirmed = all(_is_confirmed(study, trial) for trial in control_nominees(study))
    chosen: Split = "selection" if confirmed else "search"
    sides = [
        _feasible(study, front, chosen)
        for front in (study.front(chosen), control_front(study, chosen))
    ]
    tested = chosen == "selection" and all("test" in t.results for side in sides for t in side)
    split: Split = "test" if tested else chosen
    means = [losses(study.goals, [t.values(split) or {} for t in side]) for side in sides]
    search, control = (hypervolume(table, reference) for table in means)
    low, high = _interval(study, sides, split, reference)
    return Comparison(split, len(controls), search, control, low, high)


def _is_confirmed(study: Study, trial: Trial) -> bool:
    """Whether it was measured on the selection items, or has failed there."""
    if "selection" in trial.results:
        return True
    ends = [each.outcome for each in study.attempts(trial.number) if "selection" in each.splits]
    return any(end not in (None, Outcome.LOST) for end in ends)


def _feasible(study: Study, front: Sequence[Trial], split: Split) -> list[Trial]:
    return [t for t in front if violation(study.goals, t.values(split) or {}) == 0]


def _interval(
    study: Study, sides: Sequence[Sequence[Trial]], split: Split, reference: Array
) -> tuple[float | None, float | None]:
    """Of the difference, by the bootstrap of Efron (1979), Ann. Statist. 7(1), over items."""
    items = {metric: study.items(metric, split) for metric in study.charter.metrics}
    if any(not each for each in items.values()) or not all(sides):
        return None, None
    tables = []
    for side in sides:
        table = _item_losses(study, side, split, {m: len(each or ()) for m, each in items.items()})
        if table is None:
            return None, None
        tables.append(table)
    found = []
    for draw in range(_RESAMPLED):
        rng = generator(study.seed, CONTROL, "bootstrap", draw)
        rows: dict[str, NDArray[np.int64]] = {}
        for metrics in study.charter.asked_together:
            count = len(items[metrics[0]] or ())
            rows |= dict.fromkeys(metrics, rng.integers(count, size=count))
        search, control = (
            hypervolume(np.array([t[m][:, rows[m]].mean(axis=1) for m in t]).T, reference)
            for t in tables
        )
        found.append(search - control)
    low, high = np.quantile(found, _INTERVAL)
    return float(low), float(high)


def _item_losses(
    study: Study, side: Sequence[Trial], split: Split, counts: Mapping[str, int]
) -> dict[str, Array] | None:
    """By metric, ``(trials, items)``; None if only the mean of a trial was told."""
    found = {}
    for goal in study.goals:
        rows = [study.scores(trial.number, split, goal.metric).items for trial in side]
        if any(len(row) != counts[goal.metric] for row in rows):
            return None
        found[goal.metric] = goal.sign * np.array(rows)
    return found
