"""Quadratic response surfaces, as MAP fits them, made safe.

``loss = response(q(x))`` with q a quadratic. The fit starts from least squares on the inverse of
the response, and goes on by damped Gauss-Newton steps on the losses themselves, weighted by their
noise; a start at all ones, as in the published code, diverges from four models on. A ridge, chosen
by leave-one-out error, keeps it usable where coefficients outnumber trials; of the responses that a
goal's losses allow, and of several bases, those with the least such error are taken. Without a
ridge a design that cannot fix all coefficients is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evomerge.interfaces import Fit, Prediction, Pull
from evomerge.space import Array, Coordinate
from evomerge.surrogates.basis import Basis, diagonal, full, low_rank, profiles
from evomerge.surrogates.calibration import calibrated, fit_of
from evomerge.surrogates.history import FitError
from evomerge.surrogates.responses import Response, responses_of

FEWEST = 4  # trials
MOST_COEFFICIENTS = 1000
_PER_TRIAL = 3  # coefficients of a basis, beyond which it is not tried
_RIDGES = np.geomspace(1e-8, 1e3, 23)  # against features of mean square 1
_STEPS = 60
_CONVERGED = 1e-12
_DAMPING = (1e-9, 1e9)
_TINY = 1e-12  # of the mean diagonal entry, so that an inverse is there
_FREE = 1e-9  # the ridge of what is constant over the trials
_SHARE = 0.9  # of a trial that may be explained by itself, when it is left out


@dataclass(frozen=True)
class _Surface:
    """One goal's quadratic.

    Attributes:
        coefficients: ``(p,)``.
        covariance: ``(p, p)``, of the coefficients, for noise variances of mean 1.
        size: the noise's variance.
        factor: of the std.
    """

    response: Response
    coefficients: Array
    covariance: Array
    size: float
    factor: float


@dataclass(frozen=True)
class QuadraticSurrogate:
    """See the module's docstring. Implements `evomerge.interfaces.Surrogate`.

    `believing` changes nothing: a surface of few coefficients is not spread out by one more point.
    """

    basis: Basis
    surfaces: tuple[_Surface, ...]
    fits: tuple[Fit, ...]

    def predict(self, points: Array) -> Prediction:
        """See `evomerge.interfaces.Surrogate`."""
        return self.linearise(points)[0]

    def believing(self, points: Array) -> QuadraticSurrogate:
        """See `evomerge.interfaces.Surrogate`."""
        return self

    def linearise(self, points: Array) -> tuple[Prediction, Pull]:
        """See `evomerge.interfaces.Surrogate`."""
        features = self.basis.features(points)
        latent = np.array([features @ s.coefficients for s in self.surfaces])
        means = [s.response.value(q) for s, q in zip(self.surfaces, latent, strict=True)]
        slopes = np.array([s.response.slope(q) for s, q in zip(self.surfaces, latent, strict=True)])
        spread = [features @ s.covariance for s in self.surfaces]
        roots = np.sqrt([np.maximum((features * part).sum(axis=1), 1e-18) for part in spread])
        sizes = np.array([s.factor * np.sqrt(s.size) for s in self.surfaces])[:, None]
        noise = np.tile([np.sqrt(s.size) for s in self.surfaces], (len(points), 1))

        def pull(mean_weights: Array, std_weights: Array) -> Array:
            weights = np.zeros_like(features)
            for i, surface in enumerate(self.surfaces):
                by_mean = mean_weights[:, i] * slopes[i]
                by_root = std_weights[:, i] * sizes[i] * slopes[i] / roots[i]
                weights += by_mean[:, None] * surface.coefficients + by_root[:, None] * spread[i]
            return self.basis.pull(points, weights)

        return Prediction(np.array(means).T, (sizes * roots * slopes).T, noise), pull


def fit_quadratic(
    centre: Array,
    points: Array,
    losses: Array,
    variances: Array,
    coordinates: Sequence[Coordinate | None],
) -> QuadraticSurrogate:
    """The quadratic of that basis which foretells left-out trials best, with a ridge.

    Args:
        centre: ``(d,)``, the origin.
        points: ``(n, d)``.
        losses: ``(n, m)``, finite.
        variances: ``(n, m)`` > 0, the noise; their proportions count.
        coordinates: of the parameters, for profiles over depth.

    Raises:
        FitError: with fewer than `FEWEST` trials.
    """
    if len(points) < FEWEST:
        raise FitError(f"{len(points)} trials; a fit needs {FEWEST}")
    simple = _fit(diagonal(centre), points, losses, variances, ridge=True)
    directions = [surface.coefficients[1 : len(centre) + 1] for surface in simple.surfaces]
    others = [low_rank(centre, _unit(np.array(directions))), profiles(centre, coordinates)]
    most = min(MOST_COEFFICIENTS, _PER_TRIAL * len(points))
    if (len(centre) + 1) * (len(centre) + 2) // 2 <= most:
        others.append(full(centre))
    fitted = [
        _fit(basis, points, losses, variances, ridge=True)
        for basis in others
        if basis is not None and len(basis) <= most
    ]
    return min([simple, *fitted], key=_unexplained)


def fit_exactly(basis: Basis, points: Array, losses: Array, variances: Array) -> QuadraticSurrogate:
    """The quadratic of one basis without a ridge, as MAP has it.

    Raises:
        FitError: if the points do not fix every coefficient.
    """
    features = basis.features(points)
    values = np.linalg.svd(features / np.linalg.norm(features, axis=0).clip(1e-300))[1]
    rank = int((values > values[0] * 1e-9).sum())
    if rank < len(basis):
        raise FitError(
            f"{len(points)} trials fix {rank} of {len(basis)} coefficients of a quadratic; more "
            "trials are needed, at three or more levels of every parameter"
        )
    return _fit(basis, points, losses, variances, ridge=False)


def _fit(
    basis: Basis, points: Array, losses: Array, variances: Array, *, ridge: bool
) -> QuadraticSurrogate:
    features = basis.features(points)
    tried = None if len(basis) <= len(points) else 1  # so few trials tell no responses apart
    surfaces, fits = [], []
    for column, noise in zip(losses.T, variances.T, strict=True):
        links = responses_of(column)[:tried]
        found = [_surface(features, column, noise, link, ridge=ridge) for link in links]
        surface, fit = min(found, key=lambda one: one[1].error)
        surfaces.append(surface)
        fits.append(fit)
    return QuadraticSurrogate(basis, tuple(surfaces), tuple(fits))


def _surface(
    features: Array, losses: Array, variances: Array, response: Response, *, ridge: bool
) -> tuple[_Surface, Fit]:
    roots = 1 / np.sqrt(variances / variances.mean())
    scales = np.sqrt(np.mean(features**2, axis=0))
    scales = np.where(scales > 0, scales, 1.0)
    scaled = features / scales
    free = np.asarray(np.ptp(features, axis=0) == 0)  # the constant is not shrunken
    latent = response.latent(losses)
    trust = roots * response.slope(latent)
    penalty = _chosen(trust, scaled, latent, free) if ridge else 0.0
    shrink = np.where(free, 0.0, penalty)
    start = _least_squares(trust[:, None] * scaled, trust * latent, shrink)
    best = _refined(scaled, losses, roots, response, start, shrink)
    jacobian = (roots * response.slope(scaled @ best))[:, None] * scaled
    information = jacobian.T @ jacobian + np.diag(shrink)
    tiny = _TINY * float(np.trace(information)) / len(information)
    inverse = np.linalg.inv(information + tiny * np.eye(len(information)))
    own = np.minimum(np.einsum("np,pq,nq->n", jacobian, inverse, jacobian), _SHARE)
    errors = (response.value(scaled @ best) - losses) / (1 - own)
    left = max(1.0, len(losses) - float(own.sum()))
    size = max(float(((errors * (1 - own) * roots) ** 2).sum() / left), 1e-18)
    noise = size / roots**2
    model = noise * own / (1 - own)
    factor = calibrated(errors, model, noise)
    covariance = inverse / np.outer(scales, scales)
    fit = fit_of(losses, losses + errors, np.sqrt(factor**2 * model + noise))
    return _Surface(response, best / scales, covariance, size, factor), fit


def _chosen(trust: Array, features: Array, latent: Array, free: NDArray[np.bool_]) -> float:
    """The ridge of the least leave-one-out error of the start, all from one decomposition.

    With K = I + F F' / ridge + C C' / tiny, for the shrunken columns F and the free ones C, the
    errors are ``(K^-1 target) / diag(K^-1)``.
    """
    rows, target = trust[:, None] * features, trust * latent
    values, vectors = np.linalg.eigh(rows[:, ~free] @ rows[:, ~free].T)
    loose, turned = vectors.T @ rows[:, free], vectors.T @ target
    errors = []
    for penalty in _RIDGES:
        kept = 1 / (1 + np.maximum(values, 0.0) / penalty)
        lost = kept[:, None] * loose
        small = np.linalg.inv(_FREE * np.eye(loose.shape[1]) + loose.T @ lost)
        away = vectors @ (kept * turned - lost @ (small @ (lost.T @ turned)))
        spent = vectors @ lost
        diagonals = vectors**2 @ kept - np.einsum("nk,kl,nl->n", spent, small, spent)
        errors.append(float(np.sum((away / diagonals) ** 2)))
    return float(_RIDGES[int(np.argmin(errors))])


def _least_squares(rows: Array, target: Array, shrink: Array) -> Array:
    if shrink.any():
        return np.asarray(np.linalg.solve(rows.T @ rows + np.diag(shrink), rows.T @ target))
    return np.asarray(np.linalg.lstsq(rows, target, rcond=None)[0])


def _refined(
    features: Array, losses: Array, roots: Array, response: Response, start: Array, shrink: Array
) -> Array:
    """Levenberg-Marquardt on the losses (Nocedal and Wright 2006, section 10.3)."""
    if response.shape == "identity" or features.shape[1] > len(features):
        return start

    def cost(coefficients: Array) -> float:
        away = roots * (response.value(features @ coefficients) - losses)
        return float(away @ away + shrink @ coefficients**2)

    best, lowest, damping = start, cost(start), 1e-3
    for _ in range(_STEPS):
        latent = features @ best
        rows = (roots * response.slope(latent))[:, None] * features
        away = roots * (losses - response.value(latent))
        damped = np.sqrt(damping) * np.eye(len(best))
        lifted = np.concatenate([rows, np.diag(np.sqrt(shrink)), damped])
        target = np.concatenate([away, -np.sqrt(shrink) * best, np.zeros(len(best))])
        step = np.linalg.lstsq(lifted, target, rcond=None)[0]
        reached = cost(best + step)
        if reached < lowest:
            done = lowest - reached <= _CONVERGED * lowest
            best, lowest, damping = best + step, reached, max(damping / 10, _DAMPING[0])
            if done:
                break
        else:
            damping *= 10
            if damping > _DAMPING[1]:
                break
    return best


def _unexplained(surrogate: QuadraticSurrogate) -> float:
    return sum(1 - fit.explained for fit in surrogate.fits)


def _unit(directions: Array) -> Array:
    lengths = np.linalg.norm(directions, axis=1)
    return np.asarray(directions[lengths > 0] / lengths[lengths > 0][:, None])
