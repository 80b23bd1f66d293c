"""How far a surrogate can be trusted: errors and intervals on trials left out of the fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from evomerge.interfaces import Fit, Prediction
from evomerge.space import Array

_HALF, _NINE_TENTHS = 0.6745, 1.6449  # half widths of the normal intervals, in std
_FACTORS = np.geomspace(0.05, 3.0, 42)
_COARSE = np.geomspace(0.05, 3.0, 24)
_CERTAIN = 1e-6  # a share nearer to 0 or 1 than this is taken to be this
_HELD = 10.0  # precision of the priors that hold a correction's offset to 0 and its slope to 1
_NEWTON_STEPS = 8
_OFFSET_LIFE, _WIDTH_LIFE = 6.0, 12.0  # forecasts, after which one counts half
_OFFSET_PRIOR, _WIDTH_PRIOR = 2.0, 4.0  # forecasts that were right


@dataclass(frozen=True)
class Correction:
    """What predicted shares become: ``Phi(offset + slope Phi^-1(share))``."""

    offset: float = 0.0
    slope: float = 1.0

    def value(self, shares: Array) -> Array:
        """Of shares in [0, 1]."""
        return np.asarray(ndtr(self.offset + self.slope * _latent(shares)))

    def rate(self, shares: Array) -> Array:
        """The derivative of `value`."""
        latent = _latent(shares)
        turned = self.offset + self.slope * latent
        return np.asarray(self.slope * np.exp(0.5 * (latent**2 - turned**2)))


UNCORRECTED = Correction()


def corrected(shares: Array, measured: Array, variances: Array, items: int) -> Correction:
    """The correction under which trials that were left out are predicted best.

    Gauss-Newton steps of a probit regression whose priors hold it to no correction.

    Args:
        shares: ``(n,)``, predicted; measured: ``(n,)``, both in [0, 1].
        variances: ``(n,)``, of what is between them; no trial is surer than one item of its share.
        items: that a share is of.
    """
    variances = np.maximum(variances, 1 / items**2)
    design = np.stack([np.ones(len(shares)), _latent(shares)], axis=1)
    start = np.array([0.0, 1.0])
    numbers = start
    for _ in range(_NEWTON_STEPS):
        turned = design @ numbers
        rows = design * (np.exp(-0.5 * turned**2) / np.sqrt(2 * np.pi))[:, None]
        pulled = (rows / variances[:, None]).T
        gradient = pulled @ (measured - ndtr(turned)) - _HELD * (numbers - start)
        step = np.linalg.solve(pulled @ rows + _HELD * np.eye(2), gradient)
        numbers = numbers + np.clip(step, -0.5, 0.5)
    if not np.isfinite(numbers).all():
        return UNCORRECTED
    return Correction(float(numbers[0]), float(max(numbers[1], 0.1)))


def _latent(shares: Array) -> Array:
    return np.asarray(ndtri(np.clip(shares, _CERTAIN, 1 - _CERTAIN)))


def fit_of(losses: Array, means: Array, stds: Array) -> Fit:
    """The record of one goal.

    Args:
        losses: ``(n,)``, measured.
        means, stds: ``(n,)``, predicted without the trial in question, the measurement's noise in
            the stds.
    """
    n = len(losses)
    away = np.abs(losses - means)
    others = (losses - losses.mean()) * n / max(n - 1, 1)
    return Fit(
        error=float(np.sqrt(np.mean(away**2))),
        spread=float(np.sqrt(np.mean(others**2))),
        coverage_50=float(np.mean(away <= _HALF * stds)),
        coverage_90=float(np.mean(away <= _NINE_TENTHS * stds)),
    )


@dataclass(frozen=True)
class TrackRecord:
    """How forecasts have come out: what to add to the next one's mean, and its std's factor.

    Attributes:
        offsets: ``(m,)``, in the forecast's stds.
        factors: ``(m,)`` > 0.
    """

    offsets: Array
    factors: Array

    def stated(self, prediction: Prediction) -> Prediction:
        """A forecast of points that were chosen for what is foretold of them, set right."""
        mean = prediction.mean + self.offsets * prediction.spread
        return Prediction(mean, self.factors * prediction.std, self.factors * prediction.noise)


def track_record(deviations: Array) -> TrackRecord:
    """Learnt from a record of forecasts made before the measurement.

    What is chosen for a good prediction comes out worse than predicted on average (Smith and
    Winkler 2006, Management Science 52(3)), which trials left out of a fit do not show. Offset and
    width are means over the record in which the latest counts most, each drawn to a forecast that
    was right. The width is of what was left after the offset that was known by then.

    Args:
        deviations: ``(k, m)``, measured less foretold in the forecast's stds, oldest first.
    """
    k, goals = deviations.shape
    offsets = [_offset(deviations[:i]) for i in range(k + 1)]
    left = deviations - np.array(offsets[:k]).reshape(k, goals)
    weights = 0.5 ** (np.arange(k)[::-1] / _WIDTH_LIFE)
    squares = (weights @ left**2 + _WIDTH_PRIOR) / (weights.sum() + _WIDTH_PRIOR)
    return TrackRecord(offsets[k], np.sqrt(squares))


def _offset(deviations: Array) -> Array:
    weights = 0.5 ** (np.arange(len(deviations))[::-1] / _OFFSET_LIFE)
    return np.asarray(weights @ deviations / (weights.sum() + _OFFSET_PRIOR))


def calibrated(errors: Array, model: Array, noise: Array) -> float:
    """The factor of the model's own stds under which the errors are likeliest.

    Args:
        errors: ``(n,)``, of predictions of trials that were left out.
        model: ``(n,)`` variances of the prediction, up to a factor.
        noise: ``(n,)`` variances of the measurements.
    """
    variances = np.maximum(_FACTORS[:, None] ** 2 * model + noise, 1e-18)
    likelihood = -0.5 * (np.log(variances) + errors**2 / variances).sum(axis=1)
    return float(_FACTORS[int(np.argmax(likelihood))])


def calibrated_both(errors: Array, model: Array, noise: Array) -> tuple[float, float]:
    """The factors of the model's stds and of the noise's under which the errors are likeliest.

    Each factor has a log-normal prior of median 1 and spread 1. Arguments as `calibrated` has them.
    """
    own, measured = _COARSE[:, None, None] ** 2, _COARSE[None, :, None] ** 2
    variances = np.maximum(own * model + measured * noise, 1e-18)
    likelihood = -0.5 * (np.log(variances) + errors**2 / variances).sum(axis=2)
    away = np.log(_COARSE) ** 2
    likelihood -= 0.5 * (away[:, None] + away[None, :])
    i, j = np.unravel_index(int(np.argmax(likelihood)), likelihood.shape)
    return float(_COARSE[i]), float(_COARSE[j])
