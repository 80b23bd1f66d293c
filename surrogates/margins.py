"""The item-margin Gaussian process: predicts every item's margin, and from these the goals.

A score is a mean over items, a staircase in the merge's parameters; the margins behind it are
smooth. One kernel is shared by the items of all goals, each item is one output, and a goal's loss
is the mean over its items of the probability that the item goes wrong,

    low + (high - low) * Phi((m - threshold) / sqrt(scale^2 (v + noise) + spread^2 + blur^2)),

m the predicted margin, v the latent variance, and blur half of the margins' standard deviation.
The blur draws every share to one half; a correction learnt from trials left out takes that back.
Items err together, so the uncertainty of a goal is that of one item, times a factor that the
errors on trials left out decide, and so is its noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from evomerge.interfaces import Fit, Prediction, Pull
from evomerge.space import Array
from evomerge.surrogates.calibration import (
    UNCORRECTED,
    Correction,
    calibrated_both,
    corrected,
    fit_of,
)
from evomerge.surrogates.completion import condition_completed
from evomerge.surrogates.evidence import Fitted, Outputs, fit
from evomerge.surrogates.history import FitError, GoalItems
from evomerge.surrogates.links import Link, learn_link
from evomerge.surrogates.process import Process
from evomerge.surrogates.structure import Structure

BLUR = 0.5
FEWEST = 4  # trials
_EFFECTIVE = 20  # outputs that all items count as, at most
_PULLED = 4.0  # trials that an item's scale is drawn to its goal's by


@dataclass(frozen=True)
class _Goal:
    """One goal's items, as columns of the outputs.

    Attributes:
        columns: where they stand.
        means, scales: ``(p,)``; an output is the margin less its mean, over its scale.
        blur: see the module's docstring, with the link's spread in it.
        correction: of the share of items that go wrong.
        factor, noise_factor: of the std, and of the noise's.
    """

    columns: slice
    means: Array
    scales: Array
    link: Link
    blur: float
    correction: Correction = UNCORRECTED
    factor: float = 1.0
    noise_factor: float = 1.0

    def arguments(self, outputs: Array, variance: Array) -> tuple[Array, Array]:
        """What Phi is taken of, and the square root below it, ``(q, p)`` each."""
        margins = self.means + self.scales * outputs[:, self.columns]
        width = np.sqrt(self.scales**2 * variance[:, None] + self.blur**2)
        return (margins - self.link.thresholds) / width, width

    @property
    def height(self) -> float:
        return self.link.high - self.link.low


@dataclass(frozen=True)
class MarginSurrogate:
    """See the module's docstring; made by `fit_margins`. Implements `Surrogate`.

    Attributes:
        rows: ``(n,)``, which trials of the history it knows with all of their items.
        left_out: prediction of each of these without it.
    """

    process: Process
    noise: float
    goals: tuple[_Goal, ...]
    fits: tuple[Fit, ...]
    rows: NDArray[np.int64]
    left_out: Prediction

    def predict(self, points: Array) -> Prediction:
        """See `evomerge.interfaces.Surrogate`."""
        return self.linearise(points)[0]

    def believing(self, points: Array) -> MarginSurrogate:
        """See `evomerge.interfaces.Surrogate`."""
        return replace(self, process=self.process.believing(points))

    def linearise(self, points: Array) -> tuple[Prediction, Pull]:
        """See `evomerge.interfaces.Surrogate`."""
        process, kernel = self.process, self.process.kernel
        places = kernel.places(points)
        cross = kernel.gram(places, process.places)
        outputs, variance = process.means_and_variance(cross, kernel.diagonal(places))
        noisy = variance + self.noise
        parts = [_Part(goal, *goal.arguments(outputs, noisy)) for goal in self.goals]
        means = np.array([part.mean for part in parts]).T
        slopes = np.array([part.goal.factor * part.slope for part in parts]).T
        root = np.sqrt(variance)[:, None]

        def pull(mean_weights: Array, std_weights: Array) -> Array:
            by_output = np.zeros_like(outputs)
            by_variance = (std_weights * slopes).sum(axis=1) / (2 * root[:, 0])
            for part, weights in zip(parts, mean_weights.T, strict=True):
                by_output[:, part.goal.columns] = weights[:, None] * part.by_output
                by_variance = by_variance + weights * part.by_variance
            by_cross = by_output @ process.weights.T
            by_cross -= 2 * by_variance[:, None] * (cross @ process.inverse)
            through = kernel.pull_gram(places, process.places, by_cross)
            return through + kernel.pull_diagonal(places, by_variance)

        noise = np.array([part.noise for part in parts]).T
        return Prediction(means, root * slopes, noise), pull


class _Part:
    """One goal's loss at some points, and its derivatives.

    Attributes:
        share: ``(q,)``, of items that go wrong, before the correction.
        mean, noise: ``(q,)``; the noise is the std of a mean over items whose probabilities are
            known, and which are independent, times its factor.
        slope: ``(q,)``, by a step of one in all of the goal's outputs at once.
        by_output: ``(q, p)``; by_variance: ``(q,)``, by the latent variance.
    """

    def __init__(self, goal: _Goal, arguments: Array, width: Array) -> None:
        self.goal = goal
        wrong = ndtr(arguments)
        self.share = wrong.mean(axis=1)
        self.mean = goal.link.low + goal.height * goal.correction.value(self.share)
        own = (wrong * (1 - wrong)).sum(axis=1)
        self.noise = goal.noise_factor * goal.height * np.sqrt(own) / arguments.shape[1]
        density = np.exp(-0.5 * arguments**2) / np.sqrt(2 * np.pi)
        rate = goal.height * goal.correction.rate(self.share)[:, None]
        share = rate / arguments.shape[1] * density / width
        self.by_output = share * goal.scales
        self.slope = self.by_output.sum(axis=1)
        self.by_variance = -0.5 * (share * arguments / width * goal.scales**2).sum(axis=1)


def fit_margins(
    structure: Structure,
    centre: Array,
    points: Array,
    losses: Array,
    items: Sequence[GoalItems],
    *,
    kernel: Fitted | None = None,
) -> MarginSurrogate:
    """The surrogate of some goals.

    Args:
        structure: of the space.
        centre: ``(d,)``, the origin of the kernel.
        points: ``(n, d)``.
        losses: ``(n, m)``, of the goals in question.
        items: m records; trials with all margins for all of these goals are learnt from, and
            those with a part of them are completed.
        kernel: with its numbers, where they are known from an earlier fit.

    Raises:
        FitError: with fewer than `FEWEST` such trials, or margins that never differ.
    """
    tables = [table for one in items for table in (one.losses, one.margins)]
    rows = np.flatnonzero(np.all([np.isfinite(table).all(axis=1) for table in tables], axis=0))
    if len(rows) < FEWEST:
        raise FitError(f"{len(rows)} trials with margins; a fit needs {FEWEST}")
    losses = losses[rows]
    goals, outputs = _standardised([GoalItems(i.losses[rows], i.margins[rows]) for i in items])
    if not outputs.any():
        raise FitError("the margins of all trials are equal; there is nothing to learn from")
    if kernel is None:
        kernel = fit(structure, centre, points[rows], [_moments(goals, outputs)])
    chosen, partly = _partly(goals, items)
    order = np.concatenate([rows, chosen])
    process, errors, variance = condition_completed(kernel, points[order], outputs, partly)
    goals, left_out = _calibrated(goals, outputs + errors, variance, kernel.noise, losses)
    fits = tuple(map(fit_of, losses.T, left_out.mean.T, left_out.spread.T))
    return MarginSurrogate(process, kernel.noise, goals, fits, rows, left_out)


def _partly(goals: Sequence[_Goal], items: Sequence[GoalItems]) -> tuple[NDArray[np.int64], Array]:
    """The trials of which some items were measured, ``(k,)``, and their outputs, ``(k, p)``."""
    table = np.concatenate(
        [(one.margins - goal.means) / goal.scales for goal, one in zip(goals, items, strict=True)],
        axis=1,
    )
    known = np.isfinite(table)
    chosen = np.flatnonzero(known.any(axis=1) & ~known.all(axis=1))
    return chosen, table[chosen]


def _standardised(items: Sequence[GoalItems]) -> tuple[tuple[_Goal, ...], Array]:
    goals: list[_Goal] = []
    columns: list[Array] = []
    start = 0
    for one in items:
        margins = one.margins
        means = margins.mean(axis=0)
        squares, common = margins.var(axis=0), float(margins.var(axis=0).mean())
        scales = np.sqrt((len(margins) * squares + _PULLED * common) / (len(margins) + _PULLED))
        scales = np.where(scales > 0, scales, 1.0)
        link = learn_link(one.losses, margins)
        blur = float(np.hypot(BLUR * np.std(margins), link.spread)) or 1.0
        place = slice(start, start + margins.shape[1])
        goals.append(_Goal(place, means, scales, link, blur))
        columns.append((margins - means) / scales)
        start = place.stop
    return tuple(goals), np.concatenate(columns, axis=1)


def _moments(goals: Sequence[_Goal], outputs: Array) -> Outputs:
    """Every goal counts alike, whatever its number of items."""
    each = [outputs[:, g.columns] @ outputs[:, g.columns].T / len(g.means) for g in goals]
    noise = np.ones(len(outputs))
    return Outputs(np.mean(each, axis=0), noise, min(_EFFECTIVE, outputs.shape[1]))


def _calibrated(
    goals: Sequence[_Goal], outputs: Array, variance: Array, noise: float, losses: Array
) -> tuple[tuple[_Goal, ...], Prediction]:
    """The goals with their factors, and the predictions of trials left out."""
    latent = np.maximum(variance - noise, 1e-12)
    ready, parts = [], []
    for raw, measured in zip(goals, losses.T, strict=True):
        part = _Part(raw, *raw.arguments(outputs, variance))
        if raw.height:
            variances = (latent * part.slope**2 + part.noise**2) / raw.height**2
            wrong = (measured - raw.link.low) / raw.height
            found = corrected(part.share, wrong, variances, len(raw.means))
            raw = replace(raw, correction=found)
            part = _Part(raw, *raw.arguments(outputs, variance))
        error = measured - part.mean
        factor, noisy = calibrated_both(error, latent * part.slope**2, part.noise**2)
        ready.append(replace(raw, factor=factor, noise_factor=noisy))
        parts.append((part.mean, factor * np.sqrt(latent) * part.slope, noisy * part.noise))
    mean, std, noises = (np.array(column).T for column in zip(*parts, strict=True))
    return tuple(ready), Prediction(mean, std, noises)
