"""From margins to losses."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from evomerge.surrogates.links import learn_link


def test_margins_that_decide_by_their_sign_have_the_threshold_0() -> None:
    margins = np.random.default_rng(0).normal(size=(20, 30))
    link = learn_link(np.where(margins > 0, 0.0, -1.0), margins)
    assert (link.low, link.high, link.spread) == (-1.0, 0.0, 0.0)
    assert not link.thresholds.any()


def test_thresholds_are_learnt_where_the_sign_says_nothing() -> None:
    """Log-probabilities of references: all negative once turned, each item with its own bar."""
    rng = np.random.default_rng(1)
    bars = 3.0 + rng.normal(size=40)
    margins = bars + rng.normal(size=(60, 40))
    losses = (margins + 0.3 * rng.normal(size=margins.shape) > bars).astype(float)
    link = learn_link(losses, margins)
    assert np.corrcoef(link.thresholds, bars)[0, 1] > 0.95
    assert 0.2 <= link.spread <= 0.6
    predicted = ndtr((margins - link.thresholds) / link.spread)
    assert np.mean((predicted > 0.5) == (losses > 0.5)) > 0.85


def test_items_that_never_change_keep_their_thresholds_out_of_the_way() -> None:
    rng = np.random.default_rng(2)
    margins = 5 + rng.normal(size=(30, 3))
    losses = np.stack([np.ones(30), np.zeros(30), margins[:, 2] > 5.0], axis=1).astype(float)
    link = learn_link(losses, margins)
    assert np.isfinite(link.thresholds).all()
    assert link.thresholds[0] < link.thresholds[2] < link.thresholds[1]


def test_losses_that_are_all_equal_have_no_height() -> None:
    link = learn_link(np.ones((5, 2)), np.zeros((5, 2)))
    assert (link.low, link.high) == (1.0, 1.0)
