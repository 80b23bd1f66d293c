"""The confirmation phase: what chose a merge never also reports it.

The front on the search items is flattered by its choosing. So its members, and the base, the
uniform average and the parents that the study measured beside them, are measured on the selection
items, which decide the final front, and on the test items, which nothing but the report looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from evomerge import pareto
from evomerge.errors import UsageError
from evomerge.goals import Goal, violation
from evomerge.space import Array
from evomerge.study.control import control_nominees, is_control
from evomerge.study.fronts import MOST, largest
from evomerge.study.references import is_reference
from evomerge.trial import Split, Trial, TrialState

if TYPE_CHECKING:
    from evomerge.study.study import Study

SPLITS: tuple[Split, ...] = ("selection", "test")


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
    chosen = {t.number: t for t in (*references, *largest(goals, front, reference))}
    return [chosen[number] for number in sorted(chosen)]


def unmeasured(study: Study, only: int | None = None) -> list[tuple[Trial, tuple[Split, ...]]]:
    """The trials to confirm, with the splits that they are not measured on yet.

    Args:
        only: this trial, if it has been measured, in place of the nominees.
    """
    held_out = [split for split in SPLITS if _is_measurable(study, split)]
    if only is None:
        goals, trials, reference = study.goals, study.trials(), study.reference_point
        chosen = nominees(goals, trials, study.front(), reference)
        chosen += promising(study, trials)
        if any(map(is_control, trials)):
            chosen += [trial for trial in control_nominees(study) if is_control(trial)]
    else:
        chosen = [trial for trial in (study.trial(only),) if trial.state is TrialState.DONE]
    found = [(trial, tuple(s for s in held_out if s not in trial.results)) for trial in chosen]
    return [(trial, splits) for trial, splits in found if splits]


def promising(study: Study, trials: Sequence[Trial]) -> list[Trial]:
    """Trials whose values do not tell, and that are on the front by what the surrogate says of all.

    These are those that lost their races; where a surrogate searched one goal, any: the best value
    is one trial's, and flattered by having been chosen of many, which the surrogate's is less.
    """
    from evomerge.study.foresight import foresee, is_foreseen

    raced = any(trial.chance is not None for trial in trials)
    if not raced and (len(study.goals) > 1 or not is_foreseen(study)):
        return []
    known = [t for t in trials if t.state is TrialState.DONE and t.candidate.point is not None]
    try:
        table = foresee(study).losses(known)
    except (UsageError, np.linalg.LinAlgError):  # too few trials, or a fit that fails
        return []
    goals = study.goals
    values = [
        {g.metric: g.sign * loss for g, loss in zip(goals, row, strict=True)} for row in table
    ]
    missed = np.array([violation(goals, value) for value in values])
    front = np.flatnonzero(pareto.non_dominated(table, missed))
    untold = {trial.number for trial in known if trial.chance is not None}
    if len(goals) == 1:
        best = {trial.number for trial in study.front()}
        untold |= {t.number for t in known if t.number not in best and not is_reference(t)}
    stopped = [row for row in front if known[row].number in untold]
    reference = study.reference_point
    if len(stopped) > MOST and reference is not None:
        worth = pareto.contributions(table[front], reference)[np.isin(front, stopped)]
        stopped = [stopped[i] for i in np.argsort(-worth, kind="stable")]
    return [known[row] for row in stopped[:MOST]]


def is_feasible(study: Study) -> bool:
    """Whether a trial of the front meets all limits; the confirmed front, where there is one."""
    split: Split = "selection" if study.front("selection") else "search"
    return any(
        violation(study.goals, trial.values(split) or {}) == 0 for trial in study.front(split)
    )


def items_of(study: Study, split: Split) -> dict[str, tuple[int, ...] | None]:
    """A split's items by metric."""
    return {goal.metric: study.items(goal.metric, split) for goal in study.goals}


def _is_measurable(study: Study, split: Split) -> bool:
    """Whether the split has items of its own, and no goal is without."""
    items = items_of(study, split).values()
    return any(items) and all(part is None or part for part in items)
