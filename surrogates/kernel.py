"""The kernel of the Gaussian processes: constant + linear + quadratic + Matérn-5/2.

All four terms see a point through ``z = x - centre`` and the covariance S of
`evomerge.surrogates.structure`: with ``g(z, z') = z S z'``,

    k = a0 + a1 g + a2 g^2 + a3 m(r),  r^2 = (g(z, z) + g(z', z') - 2 g(z, z')) / l^2,

where ``m(r) = (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r)`` (Rasmussen and Williams (2006),
eq. 4.17).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evomerge.space import Array


@dataclass(frozen=True)
class Places:
    """Points as a kernel sees them; made by `Kernel.places`.

    Attributes:
        turned: ``(n, d)``, S z.
        norms: ``(n,)``, g(z, z).
    """

    z: Array
    turned: Array
    norms: Array

    def __len__(self) -> int:
        return len(self.z)


@dataclass(frozen=True)
class Kernel:
    """A kernel with all its numbers.

    Attributes:
        centre: ``(d,)``.
        shape: ``(d, d)``, S.
        constant, linear, quadratic, matern: the amplitudes a0 to a3, >= 0.
        lengthscale: l, > 0.
    """

    centre: Array
    shape: Array
    constant: float
    linear: float
    quadratic: float
    matern: float
    lengthscale: float

    def places(self, points: Array) -> Places:
        """Points ``(n, d)``, with what every use of them needs worked out once."""
        z = points - self.centre
        turned = z @ self.shape
        return Places(z, turned, np.asarray(np.einsum("nd,nd->n", turned, z)))

    def gram(self, places: Places, others: Places) -> Array:
        """The kernel of every pair, ``(n, q)``."""
        g, squares = self._apart(places, others)
        smooth = self.matern * matern_value(squares)
        return np.asarray(self.constant + self.linear * g + self.quadratic * g**2 + smooth)

    def diagonal(self, places: Places) -> Array:
        """``k(x, x)`` of each point, ``(n,)``."""
        g = places.norms
        return np.asarray(self.constant + self.linear * g + self.quadratic * g**2 + self.matern)

    def pull_gram(self, places: Places, others: Places, weights: Array) -> Array:
        """Gradient of ``sum(weights * gram(places, others))`` in the first points, ``(n, d)``.

        Args:
            weights: ``(n, q)``.
        """
        g, squares = self._apart(places, others)
        slope = weights * self.matern * matern_slope(squares) / self.lengthscale**2
        inner = weights * (self.linear + 2 * self.quadratic * g) - 2 * slope
        return np.asarray(inner @ others.turned + 2 * slope.sum(axis=1)[:, None] * places.turned)

    def pull_diagonal(self, places: Places, weights: Array) -> Array:
        """Gradient of ``sum(weights * diagonal(places))`` in the points, ``(n, d)``."""
        slope = weights * (self.linear + 2 * self.quadratic * places.norms)
        return np.asarray(2 * slope[:, None] * places.turned)

    def _apart(self, places: Places, others: Places) -> tuple[Array, Array]:
        """g and r^2 of every pair."""
        g = places.turned @ others.z.T
        between = places.norms[:, None] + others.norms[None, :] - 2 * g
        return g, np.maximum(between, 0.0) / self.lengthscale**2


def matern_value(squares: Array) -> Array:
    """m as a function of r^2."""
    r = np.sqrt(5 * squares)
    return np.asarray((1 + r + r**2 / 3) * np.exp(-r))


def matern_slope(squares: Array) -> Array:
    """The derivative of m by r^2, which is finite at 0."""
    r = np.sqrt(5 * squares)
    return np.asarray(-5 / 6 * (1 + r) * np.exp(-r))
