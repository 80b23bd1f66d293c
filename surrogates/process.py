"""The posterior of Gaussian processes that share points and kernel: one noise, many outputs.

Rasmussen and Williams (2006), eq. 2.25 and 2.26; leave-one-out by eq. 5.12, without refits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from evomerge.space import Array
from evomerge.surrogates.kernel import Kernel, Places

_JITTER = 1e-8
_LEAST = 1e-12  # variance, which rounding would make negative


@dataclass(frozen=True)
class Process:
    """A posterior; made by `condition`.

    Attributes:
        places: of n + k points: those measured, then k that are believed to come out as predicted.
        inverse: ``(n + k, n + k)``, of the points' covariance with its noise.
        weights: ``(n + k, p)``, the inverse times the outputs; 0 for believed points.
        noise: ``(n + k,)`` variances.
    """

    kernel: Kernel
    places: Places
    inverse: Array
    weights: Array
    noise: Array

    def means_and_variance(self, cross: Array, diagonal: Array) -> tuple[Array, Array]:
        """Of all outputs, ``(q, p)``, and of the shared latent function, ``(q,)``, without noise.

        Args:
            cross: `kernel.gram` of the new points and those of this process.
            diagonal: `kernel.diagonal` of the new points.
        """
        explained = np.einsum("qn,qn->q", cross @ self.inverse, cross)
        return cross @ self.weights, np.maximum(diagonal - explained, _LEAST)

    @property
    def points(self) -> Array:
        """``(n + k, d)``."""
        return self.places.z + self.kernel.centre

    def believing(self, points: Array) -> Process:
        """This posterior if points ``(k, d)`` came out as predicted: less variance, no other mean.

        The kriging believer of Ginsbourger et al. (2010), section 4.3.
        """
        if not len(points):
            return self
        everything = self.kernel.places(np.concatenate([self.points, points]))
        noise = np.append(self.noise, np.full(len(points), float(self.noise.mean())))
        inverse = _inverse(self.kernel.gram(everything, everything), noise)
        zeros = np.zeros((len(points), self.weights.shape[1]))
        weights = np.concatenate([self.weights, zeros])
        return Process(self.kernel, everything, inverse, weights, noise)


def condition(kernel: Kernel, noise: Array, points: Array, outputs: Array) -> Process:
    """The posterior after outputs ``(n, p)`` of prior mean 0 at points ``(n, d)``.

    Args:
        noise: ``(n,)`` variances, in the outputs' units.
    """
    places = kernel.places(points)
    inverse = _inverse(kernel.gram(places, places), noise)
    return Process(kernel, places, inverse, inverse @ outputs, noise)


def leave_one_out(process: Process) -> tuple[Array, Array]:
    """How each measured point would be predicted without it, if nothing is only believed.

    Returns:
        Errors ``(n, p)``, prediction less output, and variances ``(n,)`` with the noise.
    """
    inverse = np.diagonal(process.inverse)
    return -process.weights / inverse[:, None], 1.0 / inverse


def _inverse(covariance: Array, noise: Array) -> Array:
    factor = cho_factor(covariance + np.diag(noise + _JITTER), lower=True)
    return np.asarray(cho_solve(factor, np.eye(len(covariance))))
