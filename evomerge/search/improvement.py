"""What a measurement is expected to add: expected improvement, of one goal or of the hypervolume.

Several goals: the hypervolume is the mean, over directions drawn from the positive part of the unit
sphere, of the largest of ``c min_i(((r_i - y_i) / direction_i)_+ ^ m)`` over the front (Golovin and
Zhang 2020, arXiv:2006.04655, lemma 5); so its expected improvement is a mean over directions and
normal draws that has a gradient, whatever the number of goals. Measured points count with their
predictions, not with their noise. A limit multiplies the improvement by the probability that it is
met (Gardner et al. 2014, ICML).
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
_DRAWN_IN = 1e-3  # of the hypervolume: what the mean reach counts where nothing would improve
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
        directions: ``(s, m)`` > 0, of length 1; normal: ``(s, m)`` standard normal draws.
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
        chance = np.exp(self._met(prediction).sum(axis=1))
        return np.asarray(-chance * self._gain(prediction)[0])

    def slopes(self, prediction: Prediction) -> tuple[Array, Array]:
        """The derivatives of `value` by means and stds, ``(q, m)`` each."""
        gain, by_draw, tight = self._gain(prediction)
        chance = np.exp(self._met(prediction).sum(axis=1))[:, None]
        by_loss = np.zeros((*tight.shape, len(self.reference)))
        np.put_along_axis(by_loss, tight[:, :, None], by_draw[:, :, None], axis=2)
        by_mean = -chance * by_loss.sum(axis=1)
        by_std = -chance * np.einsum("qsm,sm->qm", by_loss, self.normal)
        bound = np.isfinite(self.limits)
        std = np.maximum(prediction.std, _LEAST)
        z = np.where(bound, (np.where(bound, self.limits, 0.0) - prediction.mean) / std, 0.0)
        steep = np.where(bound, _hazard(z), 0.0) * (gain * chance[:, 0])[:, None] / std
        return by_mean + steep, by_std + steep * z

    def _gain(self, prediction: Prediction) -> tuple[Array, Array, NDArray[np.int64]]:
        """The improvement ``(q,)``, its derivative by the loss that decides it in each draw
        ``(q, s)``, and which loss that is.
        """
        goals, count = len(self.reference), len(self.directions)
        losses = prediction.mean[:, None, :] + prediction.std[:, None, :] * self.normal
        reach = (self.reference - losses) / self.directions
        tight = reach.argmin(axis=2)
        least = np.take_along_axis(reach, tight[:, :, None], axis=2)[:, :, 0]
        scale = volume_factor(goals) / count
        inside = np.maximum(least, 0.0)
        gained = inside**goals - self.reached
        improved = gained > 0
        drawn = _DRAWN_IN * scale
        gain = scale * np.where(improved, gained, 0.0).sum(axis=1) + drawn * least.sum(axis=1)
        slope = scale * improved * goals * inside ** (goals - 1) + drawn
        across = self.directions[np.arange(count), tight]
        return gain, -slope / across, tight

    def _met(self, prediction: Prediction) -> Array:
        """Logarithms of the probabilities that limits are met, ``(q, m)``."""
        bound = np.isfinite(self.limits)
        std = np.maximum(prediction.std, _LEAST)
        z = (np.where(bound, self.limits, 0.0) - prediction.mean) / std
        return np.asarray(np.where(bound, log_ndtr(z), 0.0))


def hypervolume_improvement(
    rng: np.random.Generator, measured: Prediction, reference: Array, limits: Array
) -> HypervolumeImprovement:
    """The criterion for one ask.

    Args:
        measured: of the measured points; those that miss a limit by their means reach nothing.
        reference: ``(m,)`` losses that bound the hypervolume.
        limits: ``(m,)``.
    """
    goals = len(reference)
    directions = np.abs(rng.normal(size=(_DRAWS, goals)))
    directions = directions / np.linalg.norm(directions, axis=1)[:, None]
    feasible = measured.mean[(measured.mean <= limits).all(axis=1)]
    reached = np.zeros(_DRAWS)
    if len(feasible):
        reach = ((reference - feasible)[:, None, :] / directions).min(axis=2)
        reached = np.maximum(reach, 0.0).max(axis=0) ** goals
    normal = rng.normal(size=(_DRAWS, goals))
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
