"""How far a surrogate can be trusted: errors and intervals on trials left out of the fit."""

from __future__ import annotations

import numpy as np

from evomerge.interfaces import Fit
from evomerge.space import Array

_HALF, _NINE_TENTHS = 0.6745, 1.6449  # half widths of the normal intervals, in std
_FACTORS = np.geomspace(0.05, 3.0, 42)


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
