"""Expected improvement, by numerical integration and by differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evomerge.interfaces import Prediction
from evomerge.pareto import hypervolume
from evomerge.search.improvement import (
    ExpectedImprovement,
    HypervolumeImprovement,
    hypervolume_improvement,
    volume_factor,
)
from evomerge.search.preferences import Criterion
from evomerge.space import Array

OPEN = float("inf")
RNG = np.random.default_rng(0)
CORNERS = np.zeros(2), np.ones(2)


def sure(mean: Array) -> Prediction:
    return Prediction(mean, np.zeros_like(mean), np.zeros_like(mean))


def unsure(mean: Array, std: Array) -> Prediction:
    return Prediction(mean, std, np.zeros_like(mean))


@pytest.mark.parametrize("mean", [-0.3, 0.0, 0.5, 3.0])
def test_expected_improvement_is_the_integral(mean: float) -> None:
    best, std = 0.1, 0.4
    grid = np.linspace(mean - 12 * std, best, 400_001)
    density = np.exp(-0.5 * ((grid - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    expected = float(np.trapezoid((best - grid) * density, grid))
    found = ExpectedImprovement(best, OPEN).value(unsure(np.array([[mean]]), np.array([[std]])))
    assert math.exp(-found[0]) == pytest.approx(expected, rel=1e-5, abs=1e-14)


def test_far_from_the_best_it_still_falls_towards_it() -> None:
    means = np.array([[4.0], [40.0], [400.0]])
    found = ExpectedImprovement(0.0, OPEN).value(unsure(means, np.ones_like(means)))
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()


def test_without_a_feasible_point_only_the_limit_counts() -> None:
    prediction = unsure(np.array([[0.5]]), np.array([[0.2]]))
    found = ExpectedImprovement(OPEN, 0.5).value(prediction)
    assert found[0] == pytest.approx(math.log(2))  # it is met with probability 1/2


def test_a_sure_point_adds_its_hypervolume() -> None:
    front, reference = np.array([[0.2, 0.8], [0.7, 0.3]]), np.ones(2)
    new = np.array([[0.4, 0.4], [0.9, 0.9]])
    criteria = [
        hypervolume_improvement(np.random.default_rng(i), sure(front), CORNERS, np.full(2, OPEN))
        for i in range(30)
    ]
    found = -np.mean([c.value(sure(new)) for c in criteria], axis=0)
    whole = hypervolume(np.concatenate([front, new[:1]]), reference)
    assert found[0] == pytest.approx(whole - hypervolume(front, reference), rel=0.1)
    assert abs(found[1]) < 0.01  # it is dominated


def test_the_units_of_a_goal_change_nothing() -> None:
    front, new, unit = RNG.random((5, 3)), RNG.random((4, 3)), np.array([1.0, 100.0, 0.01])
    found = [
        hypervolume_improvement(
            np.random.default_rng(1), sure(front * u), (np.zeros(3), u), np.full(3, OPEN), sure=True
        ).value(sure(new * u))
        for u in (np.ones(3), unit)
    ]
    assert np.allclose(*found, rtol=1e-9)


def test_where_nothing_improves_a_limit_that_is_missed_still_pushes_back() -> None:
    limited = hypervolume_improvement(RNG, sure(np.zeros((1, 2))), CORNERS, np.array([OPEN, 0.5]))
    found = limited.value(unsure(np.array([[1.2, 0.9], [1.2, 0.6]]), np.full((2, 2), 0.01)))
    assert found[1] < found[0]


def test_the_volume_factors() -> None:
    """A quarter of the disc over the unit square, and an eighth of the ball over the cube."""
    assert volume_factor(2) == pytest.approx(math.pi / 4)
    assert volume_factor(3) == pytest.approx(math.pi / 6)


@pytest.mark.parametrize("limits", [(OPEN, OPEN), (OPEN, 0.6)])
def test_slopes_are_those_of_differences(limits: tuple[float, float]) -> None:
    measured = sure(RNG.random((6, 2)))
    several = hypervolume_improvement(RNG, measured, CORNERS, np.array(limits))
    cases: list[tuple[Criterion, int]] = [(several, 2), (ExpectedImprovement(0.4, limits[1]), 1)]
    for criterion, goals in cases:
        mean, std = RNG.random((5, goals)), 0.1 + 0.2 * RNG.random((5, goals))
        by_mean, by_std = criterion.slopes(unsure(mean, std))
        for goal, step in enumerate(1e-6 * np.eye(goals)):
            up, down = unsure(mean + step, std), unsure(mean - step, std)
            ends = criterion.value(up) - criterion.value(down)
            assert np.allclose(by_mean[:, goal], ends / 2e-6, atol=1e-4)
            up, down = unsure(mean, std + step), unsure(mean, std - step)
            ends = criterion.value(up) - criterion.value(down)
            assert np.allclose(by_std[:, goal], ends / 2e-6, atol=1e-4)


def test_points_that_miss_a_limit_reach_nothing() -> None:
    measured = sure(np.array([[0.1, 0.9]]))
    limited = hypervolume_improvement(RNG, measured, CORNERS, np.array([OPEN, 0.5]))
    assert isinstance(limited, HypervolumeImprovement)
    assert not limited.reached.any()
