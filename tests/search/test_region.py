"""The radius of one goal's proposals, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.search.region import FIRST, LEAST, MOST, drawn_back, radius


def test_the_design_and_others_points_change_nothing() -> None:
    assert radius([], []) == FIRST
    assert radius([0.5, 0.4, 0.3], [False] * 3) == FIRST


def test_the_best_so_far_widens_it_and_four_in_vain_narrow_it() -> None:
    begun, before = [0.5], [False]
    assert radius([*begun, 0.4], [*before, True]) == pytest.approx(1.5 * FIRST)
    assert radius([*begun, 0.6, 0.6, 0.5], [*before, *[True] * 3]) == FIRST
    assert radius([*begun, 0.6, 0.6, 0.5, 0.7], [*before, *[True] * 4]) == pytest.approx(
        0.7 * FIRST
    )
    # A success in between begins the count anew.
    mixed = [*begun, 0.6, 0.6, 0.6, 0.4, 0.6, 0.6, 0.6]
    assert radius(mixed, [*before, *[True] * 7]) == pytest.approx(1.5 * FIRST)


def test_it_stays_within_its_bounds() -> None:
    falling = [1.0 - 0.01 * i for i in range(60)]
    assert radius(falling, [True] * 60) == MOST
    assert radius([0.0, *[1.0] * 60], [True] * 61) == LEAST


def test_a_point_towards_a_failure_is_drawn_back_by_halves() -> None:
    """The failure is 0.8 away along the first axis: 0.2 may be gone."""
    measured, failed, none = np.array([[0.1, 0.5]]), np.array([[0.9, 0.5]]), np.empty((0, 2))
    wanted = np.array([0.8, 0.7])
    assert drawn_back(wanted, measured, failed, none).tolist() == pytest.approx([0.275, 0.55])
    # One before it is pending 0.17 away: a quarter of that may be gone.
    pending = np.array([[0.27, 0.5]])
    drawn = drawn_back(wanted, measured, failed, pending)
    assert drawn.tolist() == pytest.approx([0.1 + 0.7 / 32, 0.5 + 0.2 / 32])


def test_a_point_beside_failures_stays_where_it_is() -> None:
    measured, none = np.array([[0.5, 0.5]]), np.empty((0, 2))
    for failed in (none, np.array([[0.5, 0.5]]), np.array([[0.7, 0.5]])):
        for point in (np.array([0.3, 0.5]), np.array([0.5, 0.9])):
            assert drawn_back(point, measured, failed, failed) is point
