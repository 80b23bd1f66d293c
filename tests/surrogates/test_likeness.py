"""What the rest of a trial's items will say, from some of them."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.surrogates.likeness import Likeness, learn_likeness


def test_two_items_that_always_agree_foretell_each_other() -> None:
    # One factor (1, 1), own variances 1: the covariance is [[2, 1], [1, 2]], so an item seen 2
    # above its mean moves the other by 1/2 of that and leaves it a variance of 2 - 1/2.
    likeness = Likeness(np.zeros(2), np.ones((1, 2)), np.ones(2))
    mixture = likeness.mixture(np.array([0]), np.array([2.0]))
    mean, variance = likeness.total(mixture, np.array([1]))
    assert mean == pytest.approx(1.0)
    assert variance == pytest.approx(1.5)
    means, variances = mixture.mean @ likeness.factors, likeness.variances(mixture.covariance)
    assert means[1] == pytest.approx(1.0)
    assert variances[1] == pytest.approx(1.5)


def test_nothing_seen_leaves_the_mean_and_the_whole_variance() -> None:
    likeness = Likeness(np.array([0.5, 0.25]), np.ones((1, 2)), np.ones(2))
    mixture = likeness.mixture(np.array([], dtype=int), np.array([]))
    assert likeness.total(mixture, np.arange(2)) == pytest.approx((0.75, 1 * 4 + 2))


@pytest.mark.parametrize("trials", [1, 2, 7])
def test_any_number_of_trials_can_be_learnt_from(trials: int) -> None:
    table = np.random.default_rng(0).normal(size=(trials, 5))
    likeness = learn_likeness(table)
    mean, variance = likeness.total(likeness.mixture(np.array([1]), table[:1, 1]), np.arange(5))
    assert np.isfinite(mean)
    assert variance > 0


def test_trials_of_a_few_kinds_are_foretold_from_a_quarter_of_their_items() -> None:
    rng = np.random.default_rng(1)
    kinds = rng.normal(size=(3, 80))
    table = rng.normal(size=(40, 3)) @ kinds + 0.1 * rng.normal(size=(40, 80))
    likeness, fresh = learn_likeness(table[:39]), table[39]
    places = np.arange(0, 80, 4)
    gain, _ = likeness.gain(places)
    means = likeness.means + gain @ (fresh - likeness.means)[places] @ likeness.factors
    assert np.corrcoef(np.delete(means, places), np.delete(fresh, places))[0, 1] > 0.95
