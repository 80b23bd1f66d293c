"""The confirmation phase: what chose a merge never also reports it.

The front on the search items is flattered by its choosing. So its members, and the base, the
parents and the uniform average beside them, are measured on the selection items, which decide the
final front, and on the test items, which nothing but the report looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from evomerge import pareto
from evomerge.goals import Goal, losses
from evomerge.space import Array
from evomerge.trial import Split, Trial, TrialState

if TYPE_CHECKING:
    from evomerge.study.study import Study

MOST = 16
"""How many of the search front are confirmed; the largest contributions first."""

SPLITS: tuple[Split, ...] = ("selection", "test")


def is_reference(trial: Trial) -> bool:
    """Whether it is the base, a parent or the uniform average."""
    origin = trial.candidate.origin
    return origin in ("base", "uniform") or origin.startswith("parent ")


def nominees(
    goals: Sequence[Goal], trials: Sequence[Trial], front: Sequence[Trial], reference: Array | None
) -> list[Trial]:
    """The trials to confirm, by number.

    Args:
        trials: all of the study.
        front: on the search items.
        reference: of the hypervolume; without one, the front's first members are taken.
    """
    references = [t for t in trials if is_reference(t) and t.state is TrialState.DONE]
    chosen = {t.number: t for t in (*references, *_largest(goals, front, reference))}
    return [chosen[number] for number in sorted(chosen)]


def unmeasured(study: Study, only: int | None = None) -> list[tuple[Trial, tuple[Split, ...]]]:
    """The trials to confirm, with the splits that they are not measured on yet.

    Args:
        only: this trial, if it has been measured, in place of the nominees.
    """
    held_out = [split for split in SPLITS if _is_measurable(study, split)]
    if only is None:
        chosen = nominees(study.goals, study.trials(), study.front(), study.reference_point)
    else:
        chosen = [trial for trial in (study.trial(only),) if trial.state is TrialState.DONE]
    found = [(trial, tuple(s for s in held_out if s not in trial.results)) for trial in chosen]
    return [(trial, splits) for trial, splits in found if splits]


def items_of(study: Study, split: Split) -> dict[str, tuple[int, ...] | None]:
    """A split's items by metric."""
    return {goal.metric: study.items(goal.metric, split) for goal in study.goals}


def _is_measurable(study: Study, split: Split) -> bool:
    """Whether the split has items of its own, and no goal is without."""
    items = items_of(study, split).values()
    return any(items) and all(part is None or part for part in items)


def _largest(goals: Sequence[Goal], front: Sequence[Trial], reference: Array | None) -> list[Trial]:
    if len(front) <= MOST or reference is None:
        return list(front[:MOST])
    table = losses(goals, [trial.values("search") or {} for trial in front])
    order = np.argsort(-pareto.contributions(table, reference), kind="stable")
    return [front[i] for i in order[:MOST].tolist()]
