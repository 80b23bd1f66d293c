"""A kernel's numbers by the marginal likelihood of many outputs at once, with priors.

Rasmussen and Williams (2006), eq. 5.8 and 5.9, summed over outputs that share the kernel. The
outputs of one goal are alike, so they count as no more than a few; all of them cost one Cholesky
decomposition, for they enter through their second moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from evomerge.space import Array
from evomerge.surrogates.kernel import Kernel, matern_slope, matern_value
from evomerge.surrogates.structure import Structure

MOST_POINTS = 160  # for the numbers alone; the posterior uses every point
_ITERATIONS = 60
_JITTER = 1e-8
# Means and standard deviations of the logarithms of a0 to a3, l and the noise, for outputs of
# variance 1 and inner products g of mean 1.
_MEANS = np.log([1.0, 0.5, 0.1, 0.3, 2.0, 0.03])
_SPREADS = np.array([1.0, 1.0, 1.5, 1.5, 0.7, 1.5])
_STRUCTURE_SPREAD = 1.0
_REACH = 4.0  # prior standard deviations that the numbers may be away from the means


@dataclass(frozen=True)
class Outputs:
    """Outputs that share a noise, through their second moment.

    Attributes:
        moment: ``(n, n)``, the mean over the outputs of ``y y^T``, each of mean 0, variance 1.
        noise: ``(n,)``, the shape of the noise variances, of mean 1 or so.
        count: how many independent outputs they count as.
    """

    moment: Array
    noise: Array
    count: float


@dataclass(frozen=True)
class Fitted:
    """A kernel and the factor of the noise shapes."""

    kernel: Kernel
    noise: float


def fit(
    structure: Structure,
    centre: Array,
    points: Array,
    outputs: Sequence[Outputs],
    *,
    noise: tuple[float, float] | None = None,
) -> Fitted:
    """The numbers of the largest posterior density, by L-BFGS from the prior's mean.

    Args:
        centre: ``(d,)``, the origin of the kernel.
        points: ``(n, d)``, n >= 1.
        noise: the prior's median of the noise factor and the spread of its logarithm, where
            something is known of it.
    """
    if len(points) > MOST_POINTS:
        rows = np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).astype(int))
        points = points[rows]
        outputs = [Outputs(o.moment[np.ix_(rows, rows)], o.noise[rows], o.count) for o in outputs]
    evidence = _Evidence(structure, points - centre, outputs, noise)
    start = evidence.means
    reach = _REACH * evidence.spreads
    limits = list(zip(start - reach, start + reach, strict=True))
    found = minimize(
        evidence.value,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=limits,
        options={"maxiter": _ITERATIONS},
    )
    best = found.x if np.isfinite(found.fun) else start
    return evidence.fitted(centre, best)


class _Evidence:
    """The negative logarithm of the posterior density of a kernel's numbers."""

    def __init__(
        self,
        structure: Structure,
        z: Array,
        outputs: Sequence[Outputs],
        noise: tuple[float, float] | None,
    ) -> None:
        self.structure = structure
        self.outputs = outputs
        grams = np.array([z @ component @ z.T for component in structure.components])
        even, _ = structure.coefficients(np.zeros(structure.parameters))
        size = float(np.einsum("c,cii->", even, grams)) / len(z)
        self.scale = 1.0 / size if size > 0 else 1.0
        self.grams = grams * self.scale
        self.diagonals = np.einsum("cii->ci", self.grams)
        self.means = np.append(_MEANS, np.zeros(structure.parameters))
        self.spreads = np.append(_SPREADS, np.full(structure.parameters, _STRUCTURE_SPREAD))
        if noise is not None:
            self.means[5], self.spreads[5] = np.log(noise[0]), noise[1]

    def fitted(self, centre: Array, numbers: Array) -> Fitted:
        constant, linear, quadratic, matern, lengthscale, noise = np.exp(numbers[:6]).tolist()
        shares, _ = self.structure.coefficients(numbers[6:])
        shape = self.scale * np.tensordot(shares, self.structure.components, axes=1)
        kernel = Kernel(centre, shape, constant, linear, quadratic, matern, lengthscale)
        return Fitted(kernel, noise)

    def value(self, numbers: Array) -> tuple[float, Array]:
        """The value and its gradient."""
        constant, linear, quadratic, matern, lengthscale, noise = np.exp(numbers[:6])
        shares, by_number = self.structure.coefficients(numbers[6:])
        g = np.tensordot(shares, self.grams, axes=1)
        own = np.diagonal(g)
        squares = np.maximum(own[:, None] + own[None, :] - 2 * g, 0.0) / lengthscale**2
        smooth, slope = matern_value(squares), matern_slope(squares)
        covariance = constant + linear * g + quadratic * g**2 + matern * smooth
        total, pull, by_noise = 0.0, np.zeros_like(g), 0.0
        for output in self.outputs:
            value, weights = _likelihood(covariance, noise * output.noise, output)
            total, pull = total + value, pull + weights
            by_noise += noise * float(np.diagonal(weights) @ output.noise)
        by_square = pull * matern * slope
        inner = pull * (linear + 2 * quadratic * g) - 2 * by_square / lengthscale**2
        rows = 2 * by_square.sum(axis=1) / lengthscale**2
        by_share = np.tensordot(self.grams, inner, axes=2) + self.diagonals @ rows
        gradient = [
            constant * pull.sum(),
            linear * (pull * g).sum(),
            quadratic * (pull * g**2).sum(),
            matern * (pull * smooth).sum(),
            -2 * (by_square * squares).sum(),
            by_noise,
            *(by_share @ by_number),
        ]
        away = (numbers - self.means) / self.spreads
        return total + 0.5 * float(away @ away), np.array(gradient) + away / self.spreads


def _likelihood(covariance: Array, noise: Array, output: Outputs) -> tuple[float, Array]:
    """``count / 2 (tr(K^-1 moment) + log |K|)``, and its derivative by K."""
    factor = cho_factor(covariance + np.diag(noise + _JITTER), lower=True)
    inverse = cho_solve(factor, np.eye(len(covariance)))
    solved = inverse @ output.moment
    logarithm = 2 * float(np.log(np.diagonal(factor[0])).sum())
    value = 0.5 * output.count * (float(np.trace(solved)) + logarithm)
    return value, 0.5 * output.count * (inverse - solved @ inverse)
