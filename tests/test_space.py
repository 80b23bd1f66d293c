"""Parameters, and points in the unit cube."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import UsageError
from evomerge.space import Parameter, Space

SPACE = Space((Parameter("w", -0.5, 1.5), Parameter("d", 0.01, 1.0, "log")))


def test_the_middle_of_a_log_range_is_its_geometric_mean() -> None:
    assert SPACE.values([0.5, 0.5]) == {"w": 0.5, "d": pytest.approx(0.1)}


def test_the_ends_of_the_cube_are_the_ends_of_the_ranges_exactly() -> None:
    assert SPACE.values([0, 0]) == {"w": -0.5, "d": 0.01}
    assert SPACE.values([1, 1]) == {"w": 1.5, "d": 1.0}


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_point_and_values_are_inverses(point: list[float]) -> None:
    assert SPACE.point(SPACE.values(point)) == pytest.approx(point, abs=1e-12)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2))
def test_values_never_leave_their_ranges(point: list[float]) -> None:
    assert SPACE.contains(SPACE.values(point))


@pytest.mark.parametrize("point", [[0.5], [0.5, math.nan], [0.5, math.inf], [[0.5, 0.5]]])
def test_a_point_that_is_none_is_refused(point: list[float]) -> None:
    with pytest.raises(UsageError):
        SPACE.values(point)


@pytest.mark.parametrize(
    "values", [{"w": 1.0}, {"w": 1.0, "d": 0.5, "e": 0}, {"w": 2.0, "d": 0.5}, {"w": 1, "d": 0.0}]
)
def test_values_that_do_not_fit_are_refused(values: dict[str, float]) -> None:
    assert not SPACE.contains(values)
    with pytest.raises(UsageError):
        SPACE.point(values)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (math.nan, 1), (0, math.inf)])
def test_a_range_needs_two_finite_numbers_the_lower_first(low: float, high: float) -> None:
    with pytest.raises(UsageError):
        Parameter("w", low, high)


def test_a_log_range_starts_above_zero() -> None:
    with pytest.raises(UsageError, match="log needs more than 0"):
        Parameter("d", 0.0, 1.0, "log")


def test_names_are_unique() -> None:
    with pytest.raises(UsageError, match="named twice: w"):
        Space((Parameter("w", 0, 1), Parameter("w", 0, 2)))


def test_a_space_without_parameters_has_one_point() -> None:
    assert Space(()).values([]) == {}
    assert Space(()).point({}).shape == (0,)
    assert np.isfinite(Space(()).point({})).all()
