"""What a measurement is expected to add: expected improvement, of one goal or of the hypervolume.

Several goals: the hypervolume is the mean, over directions drawn from the positive part of the unit
sphere, of the largest of ``c min_i(((r_i - y_i) / direction_i)_+ ^ m)`` over the front (Golovin and
Zhang 2020, arXiv:2006.04655, lemma 5); so its expected improvement is a mean over directions and
normal draws that has a gradient, whatever the number of goals. Losses count in the goals' ranges,
lest the directions all look at the goal of the smallest numbers. Measured and pending points count
with their predictions, not with their noise. A limit multiplies the improvement by the probability
that it is met (Gardner et al. 2014, ICML).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, log_ndtr

from evomerge.interfaces import Prediction
from evomerge.space import Array

_DRAWS = 128
_FAR = -5.0  # standard deviations, below which expected improvement is expanded
_DRAWN_IN = 1e-6  # what mean reach and feasibility count, which decide where nothing improves
_LEAST = 1e-9


@dataclass(frozen=True)
class ExpectedImprovement:
    """Of one goal, as its negative logarithm (Ament et al. 2023, arXiv:2310.20708).

    Attributes:
        best: the least predicted loss of a feasible measured point; inf where none is, and then
            only the limit counts.
        limit: inf where there is none.
    """

    best: float
    limit: float

    def value(self, prediction: Prediction) -> Array:
        """Lower is better, ``(q,)``."""
        mean, std = prediction.mean[:, 0], np.maximum(prediction.std[:, 0], _LEAST)
        total = -log_ndtr((self.limit - mean) / std) if math.isfinite(self.limit) else 0.0 * mean
        if math.isfinite(self.best):
            total = total - _log_improvement((self.best - mean) / std) - np.log(std)
        return np.asarray(total)

    def slopes(self, prediction: Prediction) -> tuple[Array, Array]:
        """The derivatives of `value` by mean and std, ``(q, 1)`` each."""
        mean, std = prediction.mean, np.maximum(prediction.std, _LEAST)
        by_mean, by_std = np.zeros_like(mean), np.zeros_like(std)
        if math.isfinite(self.limit):
            z = (self.limit - mean) / std
            by_mean, by_std = by_mean + _hazard(z) / std, by_std + _hazard(z) * z / std
        if math.isfinite(self.best):
            z = (self.best - mean) / std
            steep = _steepness(z)
            by_mean, by_std = by_mean + steep / std, by_std + (steep * z - 1) / std
        return by_mean, by_std


@dataclass(frozen=True)
class HypervolumeImprovement:
    """Of several goals; made by `hypervolume_improvement`.

    Attributes:
        reference: ``(m,)``.
        directions: ``(s, m)`` > 0, of length 1 in the goals' ranges.
        normal: ``(s, m)`` standard normal draws; 0 where predictions count as certain.
        reached: ``(s,)``, what the measured points reach in each direction.
        limits: ``(m,)``, inf where there is none.
    """

    reference: Array
    directions: Array
    normal: Array
    reached: Array
    limits: Array

    def value(self, prediction: Prediction) -> Array:
        """Lower is better, ``(q,)``."""
        met = self._met(prediction).sum(axis=1)
        reach, _ = self._reach(prediction)
        drawn = _DRAWN_IN * (reach.mean(axis=1) + met)
        return np.asarray(-np.exp(met) * self._gain(reach) - drawn)

    def slopes(self, prediction: Prediction) -> tuple[Array, Array]:
        """The derivatives of `value` by means and stds, ``(q, m)`` each."""
        reach, tight = self._reach(prediction)
        goals, count = len(self.reference), len(self.directions)
        chance = np.exp(self._met(prediction).sum(axis=1))[:, None]
        inside = np.maximum(reach, 0.0)
        improved = inside**goals > self.reached
        steep = volume_factor(goals) * goals * inside ** (goals - 1) * improved
        by_reach = (chance * steep + _DRAWN_IN) / count
        by_loss = np.zeros((*tight.shape, goals))
        across = by_reach / self.directions[np.arange(count), tight]
        np.put_along_axis(by_loss, tight[:, :, None], across[:, :, None], axis=2)
        bound = np.isfinite(self.limits)
        std = np.maximum(prediction.std, _LEAST)
        z = np.where(bound, (np.where(bound, self.limits, 0.0) - prediction.mean) / std, 0.0)
        by_met = self._gain(reach)[:, None] * chance + _DRAWN_IN
        missing = np.where(bound, _hazard(z), 0.0) * by_met / std
        by_std = missing * z + np.einsum("qsm,sm->qm", by_loss, self.normal)
        return by_loss.sum(axis=1) + missing, by_std

    def _reach(self, prediction: Prediction) -> tuple[Array, NDArray[np.int64]]:
        """How far each draw reaches in its direction, and which loss decides it, ``(q, s)``."""
        losses = prediction.mean[:, None, :] + prediction.std[:, None, :] * self.normal
        reach = (self.reference - losses) / self.directions
        tight = reach.argmin(axis=2)
        return np.take_along_axis(reach, tight[:, :, None], axis=2)[:, :, 0], tight

    def _gain(self, reach: Array) -> Array:
        """The improvement, ``(q,)``."""
        goals = len(self.reference)
        gained = np.maximum(np.maximum(reach, 0.0) ** goals - self.reached, 0.0)
        return np.asarray(volume_factor(goals) * gained.mean(axis=1))

    def _met(self, prediction: Prediction) -> Array:
        """Logarithms of the probabilities that limits are met, ``(q, m)``."""
        bound = np.isfinite(self.limits)
        std = np.maximum(prediction.std, _LEAST)
        z = (np.where(bound, self.limits, 0.0) - prediction.mean) / std
        return np.asarray(np.where(bound, log_ndtr(z), 0.0))


def hypervolume_improvement(
    rng: np.random.Generator,
    known: Prediction,
    corners: tuple[Array, Array],
    limits: Array,
    *,
    sure: bool = False,
) -> HypervolumeImprovement:
    """The criterion for one ask.

    Args:
        known: of measured and pending points; those that miss a limit by their means reach nothing.
        corners: the losses, ``(m,)`` each, that end the goals' ranges: the better ones, and those
            that bound the hypervolume.
        limits: ``(m,)``.
        sure: whether predictions count as certain, and the improvement of the means is wanted.
    """
    best, reference = corners
    goals = len(reference)
    directions = np.abs(rng.normal(size=(_DRAWS, goals)))
    directions = directions / np.linalg.norm(directions, axis=1)[:, None] * (reference - best)
    feasible = known.mean[(known.mean <= limits).all(axis=1)]
    reached = np.zeros(_DRAWS)
    if len(feasible):
        reach = ((reference - feasible)[:, None, :] / directions).min(axis=2)
        reached = np.maximum(reach, 0.0).max(axis=0) ** goals
    normal = np.zeros((_DRAWS, goals)) if sure else rng.normal(size=(_DRAWS, goals))
    return HypervolumeImprovement(reference, directions, normal, reached, limits)


def volume_factor(goals: int) -> float:
    """The share of the cube's ball: c of the module's docstring."""
    return float(math.pi ** (goals / 2) / (2**goals * math.gamma(goals / 2 + 1)))


def _log_improvement(z: Array) -> Array:
    """``log(phi(z) + z Phi(z))``, without underflow."""
    near = np.maximum(z, _FAR)
    density = np.exp(-0.5 * near**2) / np.sqrt(2 * np.pi)
    close = np.log(density + near * np.exp(log_ndtr(near)))
    far = np.minimum(z, _FAR)
    away = -0.5 * far**2 - 0.5 * np.log(2 * np.pi) - 2 * np.log(-far) + np.log1p(-3 / far**2)
    return np.asarray(np.where(z > _FAR, close, away))


def _steepness(z: Array) -> Array:
    """The derivative of `_log_improvement`."""
    near = np.maximum(z, _FAR)
    close = np.exp(log_ndtr(near) - _log_improvement(near))
    far = np.minimum(z, _FAR)
    away = -far - 2 / far + 6 / (far**3 - 3 * far)
    return np.asarray(np.where(z > _FAR, close, away))


def _hazard(z: Array) -> Array:
    """``phi(z) / Phi(z)``."""
    return np.asarray(np.sqrt(2 / np.pi) / erfcx(-z / np.sqrt(2)))
