"""From the predictions of several goals to the one number that an ask makes small.

One goal: its optimistic prediction. Several: a smooth augmented Chebyshev function of the
predictions, normalised between what the references reach, with weights drawn anew for every ask,
so that asks spread over the front (Knowles 2006, ParEGO, IEEE TEC 10(1), eq. 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evomerge.interfaces import Prediction
from evomerge.space import Array

_AUGMENTED = 0.05  # share of the plain sum
_SMOOTHED = 0.05  # of the normalised losses, over which the largest gives way to the next
_MISSED = 10.0  # what missing a limit by the whole range of a goal costs


class Criterion(Protocol):
    """What an ask makes small, as a function of predictions."""

    def value(self, prediction: Prediction) -> Array:
        """Lower is better, ``(q,)``."""
        ...

    def slopes(self, prediction: Prediction) -> tuple[Array, Array]:
        """The derivatives of `value` by means and stds, ``(q, m)`` each."""
        ...


@dataclass(frozen=True)
class Preference:
    """One ask's wish.

    Attributes:
        weights: ``(m,)`` >= 0, sum 1.
        best, worst: ``(m,)`` losses that count as 0 and 1.
        optimism: how many stds a prediction may be better than its mean.
        limits: ``(m,)``, inf where there is none.
    """

    weights: Array
    best: Array
    worst: Array
    optimism: float
    limits: Array

    def value(self, prediction: Prediction) -> Array:
        """Lower is better, ``(q,)``."""
        hopeful = self._normal(prediction.mean - self.optimism * prediction.std)
        exponents = self.weights * hopeful / _SMOOTHED
        largest = exponents.max(axis=1)
        total = np.log(np.exp(exponents - largest[:, None]).sum(axis=1)) + largest
        missed = np.maximum(prediction.mean - self.limits, 0.0) / self._range
        plain = (self.weights * hopeful).sum(axis=1)
        return np.asarray(_SMOOTHED * total + _AUGMENTED * plain + _MISSED * missed.sum(axis=1))

    def slopes(self, prediction: Prediction) -> tuple[Array, Array]:
        """The derivatives of `value` by means and stds, ``(q, m)`` each."""
        hopeful = self._normal(prediction.mean - self.optimism * prediction.std)
        exponents = self.weights * hopeful / _SMOOTHED
        shares = np.exp(exponents - exponents.max(axis=1)[:, None])
        shares = shares / shares.sum(axis=1)[:, None]
        by_hopeful = self.weights * (shares + _AUGMENTED) / self._range
        by_mean = by_hopeful + _MISSED * (prediction.mean > self.limits) / self._range
        return by_mean, -self.optimism * by_hopeful

    @property
    def _range(self) -> Array:
        return self.worst - self.best

    def _normal(self, losses: Array) -> Array:
        return np.asarray((losses - self.best) / self._range)


def ranges(measured: Array, references: Sequence[int]) -> tuple[Array, Array]:
    """The best and the worst losses, ``(m,)`` each, apart from each other.

    Args:
        measured: ``(n, m)``, n >= 1.
        references: rows of the base, the models and the like; all rows count where there are few.
    """
    rows = measured[list(references)] if len(references) > 1 else measured
    best, worst = rows.min(axis=0), rows.max(axis=0)
    apart = worst - best
    everything = np.ptp(measured, axis=0)
    apart = np.where(apart > 0.1 * everything, apart, np.where(everything > 0, everything, 1.0))
    return best, best + apart


def draw(
    rng: np.random.Generator,
    best: Array,
    worst: Array,
    *,
    optimism: float,
    limits: Sequence[float],
) -> Preference:
    """A preference with weights uniform on the simplex."""
    goals = len(best)
    weights = rng.dirichlet(np.ones(goals)) if goals > 1 else np.ones(1)
    bounds = np.array(limits, dtype=float) if len(limits) else np.full(goals, np.inf)
    return Preference(weights, best, worst, optimism, bounds)
