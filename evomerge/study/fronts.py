"""Front, hypervolume and its history, of values by trial number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evomerge import pareto
from evomerge.goals import Goal, losses, violation
from evomerge.space import Array
from evomerge.study.records import HistoryPoint
from evomerge.trial import Trial

MOST = 16
"""How many of a search front are confirmed; the largest contributions first."""

Values = Mapping[int, Mapping[str, float]]
"""Means by metric, by trial number, ascending."""


def front_of(goals: Sequence[Goal], values: Values) -> list[int]:
    """Numbers of the non-dominated trials, ascending.

    Where no trial meets the limits, those that miss them least.
    """
    table = losses(goals, list(values.values()))
    missed = np.array([violation(goals, value) for value in values.values()])
    keep = pareto.non_dominated(table, missed)
    return [number for number, kept in zip(values, keep, strict=True) if kept]


def largest(goals: Sequence[Goal], front: Sequence[Trial], reference: Array | None) -> list[Trial]:
    """The members of a search front that are confirmed: those that contribute most, at most `MOST`.

    Args:
        reference: of the hypervolume; without one, the front's first members are taken.
    """
    if len(front) <= MOST or reference is None:
        return list(front[:MOST])
    table = losses(goals, [trial.values("search") or {} for trial in front])
    order = np.argsort(-pareto.contributions(table, reference), kind="stable")
    return [front[i] for i in order[:MOST].tolist()]


def hypervolume_of(goals: Sequence[Goal], values: Values, reference: Array) -> float:
    """What the feasible trials dominate up to the reference point; 0 for none."""
    return pareto.hypervolume(losses(goals, list(_feasible(goals, values).values())), reference)


def history_of(goals: Sequence[Goal], values: Values, reference: Array) -> list[HistoryPoint]:
    """The hypervolume after each trial, in order of numbers."""
    feasible = _feasible(goals, values)
    table = dict(zip(feasible, losses(goals, list(feasible.values())), strict=True))
    front, volume, points = np.empty((0, len(goals))), 0.0, []
    for number in values:
        if number in table and _adds(table[number], front, reference):
            loss = table[number]
            front = np.vstack([front[~(loss <= front).all(axis=1)], loss])
            volume = pareto.hypervolume(front, reference)
        points.append(HistoryPoint(number, volume))
    return points


def _adds(loss: Array, front: Array, reference: Array) -> bool:
    beaten = (front <= loss).all(axis=1).any()
    return bool((loss < reference).all() and not beaten)


def _feasible(goals: Sequence[Goal], values: Values) -> Values:
    return {n: value for n, value in values.items() if violation(goals, value) == 0}
