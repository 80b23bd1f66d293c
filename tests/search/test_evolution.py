"""CMA-ES's state by hand and on a bowl; breeding; the sampler that has both screened."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.search.breeding import crowding_distance, fittest, offspring
from evomerge.search.evolution import SEPARABLE, Evolution, population
from evomerge.search.margin_evolution import softened
from evomerge.surrogates.history import GoalItems, History


def test_the_mean_moves_to_the_weighted_best() -> None:
    """Four points, two parents: raw weights ln 2.5 - ln 1 and ln 2.5 - ln 2, 0.804 and 0.196."""
    points = np.array([[0.0, 1.0], [1.0, 0.0], [5.0, 5.0], [9.0, 9.0]])
    state = Evolution.start(np.zeros(2), 0.3).updated(points, np.array([1.0, 2.0, 3.0, 4.0]))
    weight = np.log(2.5) / (np.log(2.5) + np.log(1.25))
    assert state.mean == pytest.approx([1 - weight, weight])
    assert state.generation == 1


def test_steps_that_agree_lengthen_the_step_and_steps_that_cancel_shorten_it() -> None:
    ahead = still = Evolution.start(np.zeros(4), 0.1)
    rng = np.random.default_rng(0)
    for _ in range(4):
        points = ahead.mean + 0.1 * rng.normal(size=(8, 4)) + 0.2
        ahead = ahead.updated(points, points[:, 0])
        middle = np.concatenate([still.mean + 0.05 * np.eye(4), still.mean - 0.05 * np.eye(4)])
        still = still.updated(middle, np.zeros(8))
    assert ahead.sigma > 0.1 > still.sigma


@pytest.mark.parametrize("dimensions", [2, 12, SEPARABLE + 1])
def test_a_stretched_bowl_is_descended(dimensions: int) -> None:
    scales = np.linspace(1, 10, dimensions)
    rng = np.random.default_rng(1)
    state = Evolution.start(np.full(dimensions, 0.8), 0.15)
    for _ in range(120):
        points = state.draw(rng, population(dimensions))
        state = state.updated(points, ((scales * (points - 0.3)) ** 2).sum(axis=1))
    start = float(((scales * 0.5) ** 2).sum())
    assert float(((scales * (state.mean - 0.3)) ** 2).sum()) < 0.25 * start


def test_the_fittest_are_taken_front_by_front_and_far_apart() -> None:
    losses = np.array([[0.0, 3.0], [1.0, 1.0], [1.1, 0.9], [3.0, 0.0], [2.0, 2.0], [4.0, 4.0]])
    assert fittest(losses, 2) == [0, 3]
    assert set(fittest(losses, 4)) == {0, 1, 2, 3}
    assert fittest(losses, 9)[4:] == [4, 5]
    assert crowding_distance(losses[:3]).tolist() == pytest.approx([np.inf, 2.0, np.inf])
    assert crowding_distance(np.ones((2, 1))).tolist() == [np.inf, np.inf]


def test_children_lie_between_and_around_their_parents() -> None:
    parents = np.array([[0.4, 0.4, 0.6], [0.6, 0.4, 0.6]])
    children = offspring(parents, np.random.default_rng(2), 500)
    assert (children >= 0).all() and (children <= 1).all()
    assert np.abs(children.mean(axis=0) - [0.5, 0.4, 0.6]).max() < 0.02
    assert (children[:, 1] == 0.4).mean() > 0.5


def test_margins_soften_the_losses_that_follow_them() -> None:
    margins = np.linspace(-2, 2, 12)[:, None] + np.random.default_rng(3).normal(size=(12, 40))
    losses = (margins > 0).mean(axis=1)
    items = GoalItems((margins > 0).astype(float), margins)
    table = np.stack([losses, -losses, losses], axis=1)
    history = History(np.zeros((12, 1)), table, table, (items, items, None))
    soft = softened(history)
    assert len(set(soft[:, 0].tolist())) == 12
    assert np.corrcoef(soft[:, 0], losses)[0, 1] > 0.99
    assert np.array_equal(soft[:, 1:], table[:, 1:])  # margins against the losses, and none
