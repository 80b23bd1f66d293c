"""What a user would rather have: goals weighed against each other, without a search.

A weighted sum of the goals' predicted losses, normalised like the sampler's preferences. A sum, not
their largest, for what is better than every reference must go on counting by its weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evomerge.interfaces import Prediction, Surrogate
from evomerge.search.ascent import descend
from evomerge.search.knowledge import Knowledge
from evomerge.space import Array

_MISSED = 10.0  # what missing a limit by the whole range of a goal costs


@dataclass(frozen=True)
class Utility:
    """Implements `evomerge.search.preferences.Criterion`; looks at means only.

    Attributes:
        weights: ``(m,)`` >= 0, sum 1.
        best, worst: ``(m,)`` losses that count as 0 and 1.
        limits: ``(m,)``, inf where there is none.
    """

    weights: Array
    best: Array
    worst: Array
    limits: Array

    def value(self, prediction: Prediction) -> Array:
        """Lower is better, ``(q,)``."""
        normal = (prediction.mean - self.best) / (self.worst - self.best)
        missed = np.maximum(prediction.mean - self.limits, 0.0) / (self.worst - self.best)
        return np.asarray((self.weights * normal + _MISSED * missed).sum(axis=1))

    def slopes(self, prediction: Prediction) -> tuple[Array, Array]:
        """The derivatives of `value` by means and stds, ``(q, m)`` each."""
        missing = prediction.mean > self.limits
        by_mean = (self.weights + _MISSED * missing) / (self.worst - self.best)
        return by_mean, np.zeros_like(by_mean)


def utility_of(known: Knowledge, weights: Array) -> Utility:
    """Of weights ``(m,)`` >= 0, not all 0, in the range of what the references reach."""
    best, worst = known.ranges()
    return Utility(weights / weights.sum(), best, worst, known.limits)


def best_point(
    known: Knowledge, surrogate: Surrogate, weights: Array, rng: np.random.Generator
) -> Array:
    """The point of the least utility near measured points, ``(d,)``.

    Args:
        known: has read the log that `surrogate` was fitted to.
        weights: ``(m,)`` >= 0, not all 0.
    """
    utility = utility_of(known, weights)
    points, _ = descend(surrogate, utility, known.history().points, known.steps, rng)
    return np.asarray(points[0])
