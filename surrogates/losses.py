"""A Gaussian process on the goals' losses, with the noise that each measurement says it has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evomerge.interfaces import Fit, Prediction, Pull
from evomerge.space import Array
from evomerge.surrogates.calibration import calibrated, fit_of
from evomerge.surrogates.evidence import Fitted, Outputs, fit
from evomerge.surrogates.history import FitError
from evomerge.surrogates.process import Process, condition, leave_one_out
from evomerge.surrogates.structure import Structure

FEWEST = 4  # trials
_KNOWN = (0.003, 1.0)  # share of the losses' variance that noise may be thought to be at first
_APART = 0.05
"""The share of a mean's variance that is thought to set trials apart. They are measured on the
same items, few of which flip between neighbours; what the choice of items does to all is no noise.
"""
_UNSURE = 0.8  # spread of the logarithm of that
_PLAIN = (1.0, 1.5)
"""Both with several goals, which tell noise from signal together, and without standard errors."""


@dataclass(frozen=True)
class LossSurrogate:
    """One process per goal, all with the same kernel; made by `fit_losses`.

    Implements `evomerge.interfaces.Surrogate`.

    Attributes:
        noise: the factor of the noise's shapes, in the outputs' units.
        means, scales: ``(m,)``; an output is the loss less its mean, over its scale.
        factors: ``(m,)``, of the stds, by the errors on trials left out.
        left_out: prediction of each trial without it.
    """

    processes: tuple[Process, ...]
    noise: float
    means: Array
    scales: Array
    factors: Array
    fits: tuple[Fit, ...]
    left_out: Prediction

    def predict(self, points: Array) -> Prediction:
        """See `evomerge.interfaces.Surrogate`."""
        return self.linearise(points)[0]

    def believing(self, points: Array) -> LossSurrogate:
        """See `evomerge.interfaces.Surrogate`."""
        return replace(self, processes=tuple(p.believing(points) for p in self.processes))

    def linearise(self, points: Array) -> tuple[Prediction, Pull]:
        """See `evomerge.interfaces.Surrogate`."""
        kernel, known = self.processes[0].kernel, self.processes[0].places
        places = kernel.places(points)
        cross, diagonal = kernel.gram(places, known), kernel.diagonal(places)
        found = [process.means_and_variance(cross, diagonal) for process in self.processes]
        mean = self.means + self.scales * np.concatenate([outputs for outputs, _ in found], axis=1)
        roots = np.sqrt(np.array([variance for _, variance in found]).T)
        spread = self.scales * self.factors

        def pull(mean_weights: Array, std_weights: Array) -> Array:
            by_cross = np.zeros_like(cross)
            by_variance = std_weights * spread / (2 * roots)
            for i, process in enumerate(self.processes):
                by_cross += (mean_weights[:, i, None] * self.scales[i]) * process.weights[:, 0]
                by_cross -= 2 * by_variance[:, i, None] * (cross @ process.inverse)
            through = kernel.pull_gram(places, known, by_cross)
            return through + kernel.pull_diagonal(places, by_variance.sum(axis=1))

        noise = self.scales * np.sqrt([float(p.noise.mean()) for p in self.processes])
        return Prediction(mean, roots * spread, np.tile(noise, (len(points), 1))), pull


def fit_losses(
    structure: Structure,
    centre: Array,
    points: Array,
    losses: Array,
    variances: Array,
    *,
    stated: bool,
    kernel: Fitted | None = None,
) -> LossSurrogate:
    """The surrogate of all goals.

    Args:
        structure: of the space.
        centre: ``(d,)``, the origin of the kernel.
        points: ``(n, d)``.
        losses: ``(n, m)``, finite.
        variances: ``(n, m)`` > 0, the noise of each, as `filled_variances` gives it. Only their
            proportions count; the evidence decides on a common factor.
        stated: whether any of them is a measurement's own; without, they say nothing of the noise.
        kernel: with its numbers, where they are known from an earlier fit.

    Raises:
        FitError: with fewer than `FEWEST` trials, or losses that never differ.
    """
    if len(points) < FEWEST:
        raise FitError(f"{len(points)} trials; a fit needs {FEWEST}")
    means, scales = losses.mean(axis=0), losses.std(axis=0)
    if not scales.any():
        raise FitError("the losses of all trials are equal; there is nothing to learn from")
    scales = np.where(scales > 0, scales, 1.0)
    outputs = (losses - means) / scales
    noise = variances / scales**2
    size = float(noise.mean())
    shapes = noise / size
    if kernel is None:
        targets = [
            Outputs(np.outer(y, y), shape, 1.0)
            for y, shape in zip(outputs.T, shapes.T, strict=True)
        ]
        share, spread = (_APART, _UNSURE) if stated and losses.shape[1] == 1 else _PLAIN
        known = float(np.clip(share * size, *_KNOWN)), spread
        kernel = fit(structure, centre, points, targets, noise=known)
    processes = tuple(
        condition(kernel.kernel, kernel.noise * shape, points, y[:, None])
        for y, shape in zip(outputs.T, shapes.T, strict=True)
    )
    return _calibrated(processes, kernel.noise, losses, means, scales)


def _calibrated(
    processes: tuple[Process, ...], noise: float, losses: Array, means: Array, scales: Array
) -> LossSurrogate:
    factors, parts = [], []
    for process, measured, scale in zip(processes, losses.T, scales, strict=True):
        errors, variance = leave_one_out(process)
        latent = scale**2 * np.maximum(variance - process.noise, 0.0)
        noises = scale**2 * process.noise
        factors.append(calibrated(scale * errors[:, 0], latent, noises))
        predicted = measured + scale * errors[:, 0]
        parts.append((predicted, factors[-1] * np.sqrt(latent), np.sqrt(noises)))
    mean, std, spread = (np.array(column).T for column in zip(*parts, strict=True))
    left_out = Prediction(mean, std, spread)
    fits = tuple(map(fit_of, losses.T, left_out.mean.T, left_out.spread.T))
    return LossSurrogate(processes, noise, means, scales, np.array(factors), fits, left_out)
