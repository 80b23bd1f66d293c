"""Items that were not measured follow from the trial's others, and from the trials nearby."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.surrogates.completion import completed, condition_completed
from evomerge.surrogates.evidence import Fitted
from evomerge.surrogates.kernel import Kernel
from evomerge.surrogates.likeness import learn_likeness

ITEMS, WHOLE, PARTLY = 5, 6, 3


def test_completed_rows_are_the_means_given_all_that_was_measured() -> None:
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(WHOLE + PARTLY, 4))
    points = roots @ roots.T + 3.0 * np.eye(len(roots))
    whole = rng.normal(size=(WHOLE, ITEMS))
    whole -= whole.mean(axis=0)
    partly = rng.normal(size=(PARTLY, ITEMS))
    partly[[0, 0, 1, 2, 2, 2], [1, 4, 0, 1, 2, 3]] = np.nan
    likeness = learn_likeness(whole)
    items = likeness.factors.T @ likeness.factors + np.diag(likeness.own)
    outputs = np.concatenate([whole, partly]).ravel()
    known = np.isfinite(outputs)
    covariance = np.kron(points, items)
    expected = covariance[np.ix_(~known, known)] @ np.linalg.solve(
        covariance[np.ix_(known, known)], outputs[known]
    )
    _, rows, doubts = completed(whole, partly, np.linalg.inv(points))
    assert rows[~np.isfinite(partly)] == pytest.approx(expected, abs=0.02)
    assert rows[np.isfinite(partly)] == pytest.approx(partly[np.isfinite(partly)])
    assert (doubts > 0).all()


def test_what_is_left_out_is_not_in_the_guesses_nearby() -> None:
    """Whole rows are noise; beside each stand eight of which 2 of 40 items were measured."""
    rng = np.random.default_rng(1)
    points = rng.uniform(size=(12, 6))
    points = np.concatenate([points, np.repeat(points, 8, axis=0)])
    outputs = rng.normal(size=(len(points), 40))
    whole, partly = outputs[:12] - outputs[:12].mean(axis=0), outputs[12:]
    for row in partly:
        row[rng.permutation(40)[2:]] = np.nan
    kernel = Fitted(Kernel(np.full(6, 0.5), 4 * np.eye(6), 0.1, 0.5, 0.1, 0.5, 1.0), 0.1)
    _, errors, variance = condition_completed(kernel, points, whole, partly)
    assert (errors**2).mean() > (whole**2).mean()
    assert (variance > kernel.noise).all()
