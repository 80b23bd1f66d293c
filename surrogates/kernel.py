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

    def gram(self, points: Array, others: Array) -> Array:
        """``(n, d)`` and ``(q, d)`` to ``(n, q)``."""
        z, w = points - self.centre, others - self.centre
        turned = z @ self.shape
        g = turned @ w.T
        own, theirs = _inner(turned, z), _inner(w @ self.shape, w)
        return self._of(g, own[:, None], theirs[None, :])

    def diagonal(self, points: Array) -> Array:
        """``k(x, x)`` of each point, ``(n,)``."""
        z = points - self.centre
        g = _inner(z @ self.shape, z)
        return np.asarray(self.constant + self.linear * g + self.quadratic * g**2 + self.matern)

    def pull_gram(self, points: Array, others: Array, weights: Array) -> Array:
        """Gradient of ``sum(weights * gram(points, others))`` in the points, ``(n, d)``.

        Args:
            weights: ``(n, q)``.
        """
        z, w = points - self.centre, others - self.centre
        turned, theirs = z @ self.shape, w @ self.shape
        g = turned @ w.T
        own = _inner(turned, z)
        squares = _squares(g, own[:, None], _inner(theirs, w)[None, :], self.lengthscale)
        slope = self.matern * matern_slope(squares) / self.lengthscale**2
        inner = weights * (self.linear + 2 * self.quadratic * g - 2 * slope)
        return np.asarray(inner @ theirs + 2 * (weights * slope).sum(axis=1)[:, None] * turned)

    def pull_diagonal(self, points: Array, weights: Array) -> Array:
        """Gradient of ``sum(weights * diagonal(points))`` in the points, ``(n, d)``."""
        z = points - self.centre
        turned = z @ self.shape
        slope = self.linear + 2 * self.quadratic * _inner(turned, z)
        return np.asarray(2 * (weights * slope)[:, None] * turned)

    def _of(self, g: Array, own: Array, theirs: Array) -> Array:
        squares = _squares(g, own, theirs, self.lengthscale)
        smooth = self.matern * matern_value(squares)
        return np.asarray(self.constant + self.linear * g + self.quadratic * g**2 + smooth)


def matern_value(squares: Array) -> Array:
    """m as a function of r^2."""
    r = np.sqrt(5 * squares)
    return np.asarray((1 + r + r**2 / 3) * np.exp(-r))


def matern_slope(squares: Array) -> Array:
    """The derivative of m by r^2, which is finite at 0."""
    r = np.sqrt(5 * squares)
    return np.asarray(-5 / 6 * (1 + r) * np.exp(-r))


def _squares(g: Array, own: Array, theirs: Array, lengthscale: float) -> Array:
    return np.asarray(np.maximum(own + theirs - 2 * g, 0.0) / lengthscale**2)


def _inner(one: Array, other: Array) -> Array:
    return np.asarray(np.einsum("nd,nd->n", one, other))
