"""The state of CMA-ES, as a function of what was told to it.

Hansen (2023), arXiv:1604.00772, with positive weights only; above `SEPARABLE` dimensions the
covariance stays diagonal and is learnt faster, as in Ros and Hansen (2008), PPSN X.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evomerge.space import Array

SEPARABLE = 100
_STRETCH = (0.02, 0.5)  # between which the step size stays, in the unit cube


def population(dimensions: int) -> int:
    """Points per generation, eq. 48."""
    return 4 + int(3 * np.log(dimensions))


@dataclass(frozen=True)
class Evolution:
    """A normal distribution of points, and its history in two paths.

    Attributes:
        mean: ``(d,)``, m.
        sigma: the step size.
        covariance: ``(d, d)``, or its diagonal ``(d,)``; C.
        slow, fast: the paths of the step size and of the covariance, ``(d,)`` each.
        generation: how many updates were made.
    """

    mean: Array
    sigma: float
    covariance: Array
    slow: Array
    fast: Array
    generation: int = 0

    @classmethod
    def start(cls, mean: Array, sigma: float) -> Evolution:
        """Isotropic around a point."""
        d = len(mean)
        covariance = np.ones(d) if d > SEPARABLE else np.eye(d)
        return cls(np.array(mean), sigma, covariance, np.zeros(d), np.zeros(d))

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """Points ``(count, d)``, not bounded."""
        root, _ = self._roots()
        normal = rng.normal(size=(count, len(self.mean)))
        steps = normal * root if root.ndim == 1 else normal @ root.T
        return np.asarray(self.mean + self.sigma * steps)

    def updated(self, points: Array, losses: Array) -> Evolution:
        """After one generation, eq. 38 to 47.

        Args:
            points: ``(k, d)``, k >= 2; need not have been drawn from this very distribution.
            losses: ``(k,)``, finite.
        """
        d, parents = len(self.mean), max(1, len(points) // 2)
        raw = np.log((len(points) + 1) / 2) - np.log(np.arange(1, parents + 1))
        weights = raw / raw.sum()
        mass = 1 / float((weights**2).sum())
        rates = _Rates.of(d, mass, separable=self.covariance.ndim == 1)
        best = points[np.argsort(losses, kind="stable")[:parents]]
        steps = (best - self.mean) / self.sigma
        step = weights @ steps
        root, inverse = self._roots()
        white = step / root if root.ndim == 1 else inverse @ step
        slow = (1 - rates.slow) * self.slow + np.sqrt(rates.slow * (2 - rates.slow) * mass) * white
        length = float(np.linalg.norm(slow))
        usual = np.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d**2))
        faded = np.sqrt(1 - (1 - rates.slow) ** (2 * (self.generation + 1)))
        steady = float(length / faded < (1.4 + 2 / (d + 1)) * usual)
        push = steady * np.sqrt(rates.fast * (2 - rates.fast) * mass)
        fast = (1 - rates.fast) * self.fast + push * step
        kept = 1 - rates.one - rates.many + (1 - steady) * rates.one * rates.fast * (2 - rates.fast)
        if root.ndim == 1:
            one, many = fast**2, weights @ steps**2
        else:
            one, many = np.outer(fast, fast), (steps.T * weights) @ steps
        sigma = self.sigma * np.exp(rates.slow / rates.damping * (length / usual - 1))
        return Evolution(
            mean=self.mean + self.sigma * step,
            sigma=float(np.clip(sigma, *_STRETCH)),
            covariance=kept * self.covariance + rates.one * one + rates.many * many,
            slow=slow,
            fast=fast,
            generation=self.generation + 1,
        )

    def _roots(self) -> tuple[Array, Array]:
        """The covariance's symmetric root and the inverse of that, or the diagonals of both."""
        if self.covariance.ndim == 1:
            root = np.sqrt(self.covariance)
            return root, 1 / root
        values, vectors = np.linalg.eigh(self.covariance)
        lengths = np.sqrt(np.maximum(values, 1e-14))
        return (vectors * lengths) @ vectors.T, (vectors / lengths) @ vectors.T


@dataclass(frozen=True)
class _Rates:
    """Learning rates, eq. 54 to 58: of the paths, of their outer product and of the steps'."""

    slow: float
    fast: float
    one: float
    many: float
    damping: float

    @classmethod
    def of(cls, d: int, mass: float, *, separable: bool) -> _Rates:
        slow = (mass + 2) / (d + mass + 5)
        fast = (4 + mass / d) / (d + 4 + 2 * mass / d)
        quicker = (d + 2) / 3 if separable else 1.0
        one = quicker * 2 / ((d + 1.3) ** 2 + mass)
        many = min(1 - one, quicker * 2 * (mass - 2 + 1 / mass) / ((d + 2) ** 2 + mass))
        damping = 1 + 2 * max(0.0, np.sqrt((mass - 1) / (d + 1)) - 1) + slow
        return cls(slow, fast, one, many, float(damping))
