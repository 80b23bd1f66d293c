"""Fronts and hypervolume against hand-worked numbers and against plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evomerge.pareto import contributions, hypervolume, non_dominated

LOSSES = hnp.arrays(
    float,
    st.tuples(st.integers(0, 9), st.integers(1, 4)),
    elements=st.integers(0, 4).map(float),
)


def test_two_points_dominate_three_squares() -> None:
    assert hypervolume(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([2.0, 2.0])) == 3.0


def test_three_losses_by_hand() -> None:
    front = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    # Each box is 2 x 1 x 1; any two share the unit cube that all three share: 3 * 2 - 3 + 1.
    assert hypervolume(front, np.full(3, 2.0)) == 4.0


@pytest.mark.parametrize("losses", [np.empty((0, 2)), np.array([[3.0, 0.0]]), np.full((2, 2), 2.0)])
def test_nothing_inside_the_reference_is_no_volume(losses: np.ndarray) -> None:
    assert hypervolume(losses, np.full(2, 2.0)) == 0.0


def test_a_row_with_nan_is_never_on_the_front_and_dominates_nothing() -> None:
    losses = np.array([[np.nan, 0.0], [1.0, 1.0], [0.0, np.nan]])
    assert non_dominated(losses).tolist() == [False, True, False]
    assert hypervolume(losses, np.full(2, 2.0)) == 1.0


def test_less_violation_wins_whatever_the_losses() -> None:
    losses = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert non_dominated(losses, np.array([1.0, 0.0, 0.0])).tolist() == [False, True, False]


def test_equal_rows_are_all_kept() -> None:
    assert non_dominated(np.zeros((3, 2))).all()


def test_contribution_is_the_loss_of_removing_a_row() -> None:
    losses = np.array([[0.0, 1.0], [1.0, 0.0], [1.5, 1.5]])
    assert contributions(losses, np.full(2, 2.0)).tolist() == [1.0, 1.0, 0.0]


@given(LOSSES)
def test_the_front_is_what_the_definition_says(losses: np.ndarray) -> None:
    def dominated(row: np.ndarray) -> bool:
        return any((other <= row).all() and (other < row).any() for other in losses)

    assert non_dominated(losses).tolist() == [not dominated(row) for row in losses]


@given(LOSSES)
def test_hypervolume_counts_the_dominated_unit_cells(losses: np.ndarray) -> None:
    """With integer losses and reference 5, the volume is a number of unit cells."""
    m = losses.shape[1]
    corners = np.stack(np.meshgrid(*[np.arange(5)] * m, indexing="ij"), axis=-1).reshape(-1, m)
    covered = [any((row <= corner).all() for row in losses) for corner in corners]
    assert hypervolume(losses, np.full(m, 5.0)) == sum(covered)
