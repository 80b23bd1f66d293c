"""What a search is worth: the value, on items that it never saw, of what it hands over."""

from __future__ import annotations

import numpy as np
from problem import Problem

from evomerge.pareto import hypervolume, non_dominated
from evomerge.space import Array


class Judge:
    """Knows a problem's unseen items, and remembers what it measured on them."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._known: dict[bytes, Array] = {}
        ends = np.array([self._values(x) for x in problem.references()])
        self._low, self._high = ends.min(axis=0), ends.max(axis=0)

    def worth(self, points: Array, losses: Array) -> float:
        """Of what these losses ``(n, goals)`` choose among points ``(n, d)``.

        One goal: the accuracy of the point with the least loss. Several: the hypervolume of the
        points that no other dominates, each goal normalised so that the worst of the references
        is 0 and the best of them 1.
        """
        if self._problem.goals == 1:
            return float(self._values(points[losses[:, 0].argmin()])[0])
        unseen = np.array([self._values(x) for x in points[non_dominated(losses)]])
        normed = (unseen - self._low) / (self._high - self._low)
        return hypervolume(-normed, np.zeros(self._problem.goals))

    def _values(self, point: Array) -> Array:
        key = point.tobytes()
        if key not in self._known:
            self._known[key] = self._problem.values(point, unseen=True)
        return self._known[key]
