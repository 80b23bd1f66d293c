"""Directions, limits and the reference point."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.goals import Goal, losses, reference_point, violation

ACCURACY = Goal("accuracy", "maximize", limit=0.5)
REFUSALS = Goal("refusals", "minimize", limit=0.05)


def test_losses_are_lower_is_better_in_the_order_of_the_goals() -> None:
    values = [{"refusals": 0.1, "accuracy": 0.8}, {"refusals": 0.0, "accuracy": 0.4}]
    assert losses([ACCURACY, REFUSALS], values).tolist() == [[-0.8, 0.1], [-0.4, 0.0]]


def test_no_values_are_no_rows_but_still_columns() -> None:
    assert losses([ACCURACY, REFUSALS], []).shape == (0, 2)


@pytest.mark.parametrize(
    ("goal", "value", "missed"),
    [(ACCURACY, 0.5, 0.0), (ACCURACY, 0.4, 0.1), (REFUSALS, 0.05, 0.0), (REFUSALS, 0.15, 0.1)],
)
def test_a_limit_is_a_floor_when_maximising_and_a_ceiling_when_minimising(
    goal: Goal, value: float, missed: float
) -> None:
    assert goal.violation(value) == pytest.approx(missed)


def test_violations_add_up() -> None:
    assert violation([ACCURACY, REFUSALS], {"accuracy": 0.4, "refusals": 0.15}) == pytest.approx(
        0.2
    )


def test_the_derived_reference_lies_a_tenth_of_the_spread_beyond_the_worst() -> None:
    measured = np.array([[-0.8, 0.0], [-0.4, 0.2]])
    goals = [Goal("a"), Goal("b", "minimize")]
    assert reference_point(goals, measured) == pytest.approx([-0.36, 0.22])


def test_a_given_reference_is_in_the_users_units() -> None:
    measured = np.array([[-0.8], [-0.4]])
    assert reference_point([Goal("a", reference=0.2)], measured).tolist() == [-0.2]


def test_equal_measurements_still_leave_a_margin() -> None:
    assert reference_point([Goal("a")], np.array([[-0.5]])) == pytest.approx([-0.4])
