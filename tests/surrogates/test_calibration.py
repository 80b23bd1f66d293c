"""What errors on left-out trials say of a surrogate's shares and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from evomerge.interfaces import Prediction
from evomerge.surrogates.calibration import (
    UNCORRECTED,
    Correction,
    calibrated_both,
    corrected,
    track_record,
)


def test_a_blur_is_taken_back() -> None:
    """Shares that were drawn to one half, as Phi(x / 1.5) is of Phi(x)."""
    measured = np.linspace(0.05, 0.6, 40)
    shares = ndtr(ndtri(measured) / 1.5)
    found = corrected(shares, measured, np.full(40, 1e-4), 100)
    assert np.abs(found.value(shares) - measured).max() < 0.01 < np.abs(shares - measured).max()


def test_few_noisy_trials_correct_little() -> None:
    found = corrected(np.array([0.2, 0.4]), np.array([0.1, 0.3]), np.full(2, 0.25), 100)
    assert found.offset == pytest.approx(0, abs=0.1)
    assert found.slope == pytest.approx(1, abs=0.1)


def test_one_sure_trial_is_not_followed() -> None:
    """Nobody is surer of a share than one of its items, whatever the trial's variance says."""
    shares = np.linspace(0.05, 0.6, 20)
    measured, variances = shares + 0.01 * np.cos(np.arange(20)), np.full(20, 1e-3)
    measured[0], variances[0] = shares[0] - 0.02, 1e-30
    assert corrected(shares, measured, variances, 60).slope == pytest.approx(1, abs=0.1)


def test_solved_goals_and_numbers_that_are_none_leave_shares_alone() -> None:
    shares = np.full(12, 1e-30)
    found = corrected(shares, np.full(12, 0.01), np.zeros(12), 60)
    assert (found.offset, found.slope) == pytest.approx((0, 1), abs=0.01)
    assert corrected(shares, np.full(12, np.nan), np.ones(12), 60) == UNCORRECTED


def test_the_rate_is_the_derivative() -> None:
    correction, shares = Correction(0.2, 1.3), np.array([0.05, 0.5, 0.9])
    ends = correction.value(shares + 1e-6) - correction.value(shares - 1e-6)
    assert correction.rate(shares) == pytest.approx(ends / 2e-6, rel=1e-6)


def test_certain_shares_stay_finite() -> None:
    shares = np.array([0.0, 1.0, 0.0, 1.0])
    found = corrected(shares, shares, np.full(4, 1e-3), 100)
    assert found.value(shares) == pytest.approx(shares, abs=1e-3)
    assert np.isfinite(found.rate(shares)).all()


def test_model_and_noise_are_told_apart() -> None:
    """The model's std is twice what the errors are, the noise's a half."""
    rng = np.random.default_rng(1)
    model, noise = rng.uniform(0.1, 2.0, size=(2, 400)) ** 2
    errors = np.sqrt(0.25 * model + 4 * noise) * rng.normal(size=400)
    own, measured = calibrated_both(errors, model, noise)
    assert own == pytest.approx(0.5, rel=0.4)
    assert measured == pytest.approx(2, rel=0.2)


def test_forecasts_stand_as_they_came_out() -> None:
    """By hand: 2 over 1 + 2 for the offset; of the width (2 * 2 + 4) over 1 + 4."""
    untried = track_record(np.empty((0, 2)))
    assert untried.offsets.tolist() == [0, 0]
    assert untried.factors.tolist() == [1, 1]
    once = track_record(np.array([[0.0, 2.0]]))
    assert np.allclose(once.offsets, [0, 2 / 3])
    assert np.allclose(once.factors, np.sqrt([4 / 5, 8 / 5]))
    found = once.stated(Prediction(np.zeros((1, 2)), np.full((1, 2), 0.3), np.full((1, 2), 0.4)))
    assert np.allclose(found.mean, [[0, 0.5 * 2 / 3]])
    assert np.allclose(found.spread, 0.5 * once.factors)


@pytest.mark.parametrize(("bias", "width"), [(0.0, 1.0), (1.2, 0.6), (-0.5, 2.0)])
def test_stated_intervals_hold_what_they_say(bias: float, width: float) -> None:
    deviations = bias + width * np.random.default_rng(3).normal(size=(60, 40))
    latest = track_record(deviations[:-1])
    away = np.abs(deviations[-1] - latest.offsets) / latest.factors
    assert 0.35 < np.mean(away < 0.6745) < 0.65
    assert 0.8 < np.mean(away < 1.6449) <= 1
