"""Goals: what is measured, which way is better, and which limit must hold.

Values carry the user's units and direction; losses are lower-is-better. A goal's `sign` is the
only flip in the program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evomerge.interfaces import ItemLosses
from evomerge.space import Array
from evomerge.trial import Scores

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Goal:
    """One objective's metric with its direction.

    Attributes:
        metric: the goal's name, unique in a campaign.
        direction: of the user's value.
        limit: a bound that a feasible value meets: at least the limit when maximising,
            at most when minimising.
        reference: the user's value that bounds the hypervolume; None derives it from the
            measured base and parents, or from the first trials.
    """

    metric: str
    direction: Direction = "maximize"
    limit: float | None = None
    reference: float | None = None

    @property
    def sign(self) -> int:
        """-1 where higher is better: ``loss = sign * value``."""
        return -1 if self.direction == "maximize" else 1

    @property
    def loss_limit(self) -> float:
        """The loss that a feasible trial does not exceed; inf without a limit."""
        return math.inf if self.limit is None else self.sign * self.limit

    def violation(self, value: float) -> float:
        """How far the value misses the limit, in the user's units; 0 is feasible."""
        if self.limit is None:
            return 0.0
        return max(0.0, self.sign * (value - self.limit))


def losses(goals: Sequence[Goal], values: Sequence[Mapping[str, float]]) -> Array:
    """Values by metric as losses, ``(n, m)``, lower is better."""
    table = [[goal.sign * value[goal.metric] for goal in goals] for value in values]
    return np.array(table, dtype=float).reshape(len(values), len(goals))


def loss_limits(goals: Sequence[Goal]) -> tuple[float, ...]:
    """The goals' limits as losses; empty where none has one."""
    limits = tuple(goal.loss_limit for goal in goals)
    return limits if any(math.isfinite(limit) for limit in limits) else ()


def item_losses(goals: Sequence[Goal], scores: Mapping[str, Scores]) -> tuple[ItemLosses, ...]:
    """Scores and margins item by item as losses, one record per goal."""
    return tuple(_item_losses(goal, scores[goal.metric]) for goal in goals)


def _item_losses(goal: Goal, scores: Scores) -> ItemLosses:
    margins = None if scores.margins is None else goal.sign * np.array(scores.margins, dtype=float)
    return ItemLosses(goal.sign * np.array(scores.items, dtype=float), margins)


def violation(goals: Sequence[Goal], values: Mapping[str, float]) -> float:
    """The sum of the goals' violations; 0 is feasible."""
    return sum(goal.violation(values[goal.metric]) for goal in goals)


def reference_point(goals: Sequence[Goal], measured: Array) -> Array:
    """The loss vector that bounds the hypervolume.

    A goal's own reference where it gives one; else the worst of the measured losses, moved away
    by a tenth of their spread, so that the worst one itself still counts (the rule of Ishibuchi
    et al. (2011), GECCO, as botorch applies it to a known nadir).

    Args:
        goals: m goals.
        measured: ``(n, m)`` finite losses of the base and the parents, or of the first trials,
            n >= 1.

    Returns:
        ``(m,)``; where all measured losses agree, a tenth of their size (or 0.1) beyond them.
    """
    worst, spread = measured.max(axis=0), np.ptp(measured, axis=0)
    margin = np.where(spread > 0, 0.1 * spread, 0.1 * np.maximum(np.abs(worst), 1.0))
    derived = worst + margin
    given = [
        derived[i] if goal.reference is None else goal.sign * goal.reference
        for i, goal in enumerate(goals)
    ]
    return np.array(given, dtype=float)
