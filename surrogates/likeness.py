"""Items answer alike: what the rest of a trial's items will say, from some of them.

A trial's row of item values is modelled as the earlier trials' mean, plus a mixture of their
deviations from it, plus noise of each item's own,

    row = mean + sum_t a_t factor_t + e,   a_t ~ N(0, 1),   e_i ~ N(0, own_i).

So an item's difficulty is in the mean and its covariance with the others in the factors; that
covariance is the earlier trials', drawn to its diagonal (Ledoit and Wolf (2004), JMVA 88(2)), with
variances drawn to their mean. Conditioning costs one inverse as large as the trials are many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evomerge.space import Array

Places = NDArray[np.int64]
"""Positions of items in a row."""

FEWEST = 4  # trials
_DRAWN = 0.3  # of the covariance, to its diagonal
_PULLED = 4.0  # trials that an item's variance is drawn to the mean by


@dataclass(frozen=True)
class Likeness:
    """One kind of item value over some trials; made by `learn_likeness`.

    Attributes:
        means: ``(p,)``.
        factors: ``(n, p)``, one per trial.
        own: ``(p,)`` variances > 0.
    """

    means: Array
    factors: Array
    own: Array

    def mixture(self, places: Places, values: Array) -> Mixture:
        """What some items ``(k,)`` of a new trial, at places ``(k,)``, say of its mixture."""
        gain, covariance = self.gain(places)
        return Mixture(gain @ (values - self.means[places]), covariance)

    def gain(self, places: Places) -> tuple[Array, Array]:
        """From some items' deviations to their mixture's mean, ``(n, k)``, and its covariance."""
        loads = self.factors[:, places] / self.own[places]
        precision = np.eye(len(self.factors)) + loads @ self.factors[:, places].T
        covariance = np.asarray(np.linalg.inv(precision), dtype=float)
        return covariance @ loads, covariance

    def total(self, mixture: Mixture, places: Places) -> tuple[float, float]:
        """Mean and variance of the sum of a new trial's items at some places."""
        load = self.factors[:, places].sum(axis=1)
        mean = float(self.means[places].sum() + load @ mixture.mean)
        return mean, float(load @ mixture.covariance @ load + self.own[places].sum())

    def variances(self, covariance: Array) -> Array:
        """Of all items of a new trial, ``(p,)``, whose mixture has such a covariance."""
        return np.asarray((self.factors * (covariance @ self.factors)).sum(axis=0) + self.own)


@dataclass(frozen=True)
class Mixture:
    """How much of each earlier trial's deviation is in a new one: ``(n,)`` and ``(n, n)``."""

    mean: Array
    covariance: Array


def learn_likeness(table: Array) -> Likeness:
    """The likeness of trials whose items ``(n, p)``, n >= 1, are all known."""
    n = len(table)
    means = table.mean(axis=0)
    variances = table.var(axis=0)
    common = float(variances.mean())
    drawn = (n * variances + _PULLED * common) / (n + _PULLED)
    own = np.maximum(_DRAWN * (n + 1) / n * drawn, 1e-9)
    return Likeness(means, np.sqrt((1 - _DRAWN) / max(n - 1, 1)) * (table - means), own)
