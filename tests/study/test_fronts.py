"""Fronts and the hypervolume's history, of values in the user's units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.goals import Goal
from evomerge.study.fronts import front_of, history_of, hypervolume_of

UP_DOWN = (Goal("up"), Goal("down", direction="minimize"))
REFERENCE = np.array([0.0, 10.0])  # up > 0, down < 10

PAIR = st.tuples(st.integers(-1, 5), st.integers(0, 12))


def values(*pairs: tuple[float, float]) -> dict[int, dict[str, float]]:
    return {number: {"up": up, "down": down} for number, (up, down) in enumerate(pairs)}


def test_no_trials_make_an_empty_front() -> None:
    assert front_of(UP_DOWN, {}) == []
    assert hypervolume_of(UP_DOWN, {}, REFERENCE) == 0
    assert history_of(UP_DOWN, {}, REFERENCE) == []


def test_equal_trials_are_all_on_the_front() -> None:
    assert front_of(UP_DOWN, values((1, 1), (1, 1), (0, 1))) == [0, 1]


def test_a_history_by_hand() -> None:
    told = values((1, 9), (2, 12), (1, 8), (2, 9), (1, 9))
    points = [point.hypervolume for point in history_of(UP_DOWN, told, REFERENCE)]
    # 1 x 1; outside; 1 x 2; and 2 x 1 beside it, 1 shared; nothing new
    assert points == [1, 1, 2, 3, 3]


def test_a_trial_that_misses_a_limit_counts_nothing() -> None:
    goals = (Goal("up"), Goal("down", direction="minimize", limit=5))
    told = values((3, 9), (1, 4))
    assert front_of(goals, told) == [1]
    assert hypervolume_of(goals, told, REFERENCE) == 1 * 6
    assert [point.hypervolume for point in history_of(goals, told, REFERENCE)] == [0, 6]


@given(pairs=st.lists(PAIR, max_size=12))
def test_the_history_ends_at_the_hypervolume(pairs: list[tuple[int, int]]) -> None:
    told = values(*pairs)
    points = [point.hypervolume for point in history_of(UP_DOWN, told, REFERENCE)]
    assert points == sorted(points)
    if points:
        assert points[-1] == pytest.approx(hypervolume_of(UP_DOWN, told, REFERENCE))
