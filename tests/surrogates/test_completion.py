"""Items that were not measured follow from the trial's others, and from the trials nearby."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.surrogates.completion import completed
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
    rows, doubts = completed(whole, partly, np.linalg.inv(points))
    assert rows[~np.isfinite(partly)] == pytest.approx(expected, abs=0.02)
    assert rows[np.isfinite(partly)] == pytest.approx(partly[np.isfinite(partly)])
    assert (doubts > 0).all()
