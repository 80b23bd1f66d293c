"""MAP and Bayesian MAP on quadratics that are known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from evomerge.errors import UsageError
from evomerge.interfaces import Asked, Observation, SearchProblem
from evomerge.search.misfits import Misfits, bin_of, scores
from evomerge.search.quadratic_map import MapSampler
from evomerge.search.registry import make_sampler
from evomerge.space import Array, Coordinate, Parameter, Space
from evomerge.surrogates.responses import Response
from tests.search.memory_log import MemoryLog

LINKS = [Response("identity"), Response("sigmoid", -1.0, 0.0), Response("softplus")]


def weights_space(models: int, low: float = -0.5) -> Space:
    names = [f"m{model}" for model in range(models)]
    return Space(
        tuple(
            Parameter(f"{n}/*/weight", low, 1.5, "linear", Coordinate(n, None, None, "weight"))
            for n in names
        )
    )


def latent(points: Array) -> Array:
    """Two quadratics of every parameter and pair, ``(n, d)`` to ``(n, 2)``."""
    d = points.shape[1]
    rng = np.random.default_rng(d)
    curvatures, slopes = rng.normal(size=(2, d, d)) / d, rng.normal(size=(2, d))
    z = points - 0.4
    return np.asarray(np.einsum("ni,gij,nj->ng", z, curvatures, z) + z @ slopes.T - 0.2)


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.shape)
@pytest.mark.parametrize(
    ("name", "models"), [("map", 2), ("map", 8), ("bayesian_map", 2), ("bayesian_map", 4)]
)
def test_quadratics_are_reproduced_from_twice_their_coefficients(
    name: str, models: int, link: Response
) -> None:
    """Anywhere in the region of the design, to 1e-6."""
    trials = (models + 1) * (models + 2)
    searched = SearchProblem(weights_space(models), 2, 2 * trials, seed=3)
    sampler, log = make_sampler(name, searched, {}), MemoryLog()
    assert isinstance(sampler, MapSampler)
    for number in range(trials):
        proposal = sampler.ask(log, number)
        log.entries.append(Asked(number, proposal.point, own=True, note=proposal.note))
        losses = link.value(latent(proposal.point[None])[0])
        log.entries.append(Observation(number, proposal.point, losses, 0.0))
    points = np.array([asked.point for asked in log.asks()])
    low, high = points.min(axis=0), points.max(axis=0)
    new = low + np.random.default_rng(0).random((200, models)) * (high - low)
    surrogate = sampler.surrogate(log)
    assert [surface.response.shape for surface in surrogate.surfaces] == [link.shape] * 2
    assert np.abs(surrogate.predict(new).mean - link.value(latent(new))).max() < 1e-6


def test_bins_by_hand() -> None:
    """Quarters of a right angle for two models; the published code has none for (0, 1)."""
    assert bin_of(np.array([1.0, 0.0])) == (0, 0, 0)
    assert bin_of(np.array([1.0, 1.0])) == (2, 0, 0)
    assert bin_of(np.array([0.0, 1.0])) == (3, 0, 0)
    assert bin_of(np.array([0.1, -1.0])) == (3, 0, 1)
    assert bin_of(np.array([1.0, 0.0, 0.0, -0.1])) == (0, 1, 1, 0, 0, 0, 1)
    assert bin_of(np.array([-0.3])) == (1,)


def test_a_score_is_that_of_resampling_four_fifths() -> None:
    """Mean squared error, and half of its standard deviation over all samples of four in five."""
    errors = [0.1, 0.5, 0.2, -0.9, 0.4]
    squares = np.square(errors)
    resampled = np.std([np.mean(four) for four in combinations(squares, 4)])
    assert scores({(0,): errors}) == pytest.approx([squares.mean() + 0.5 * resampled])
    assert scores({(0,): [3.0], (1,): [1.0, -1.0]}).tolist() == [9.0, 1.0]


def test_trials_go_where_the_fit_is_off_and_where_there_are_none() -> None:
    space = weights_space(2)
    misfits, rng = Misfits.of("bayesian_map", space), np.random.default_rng(1)
    angles = np.deg2rad([10, 30, 55, 80])
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    measured = np.array([space.point({"m0/*/weight": a, "m1/*/weight": b}) for a, b in ring])
    errors = np.array([0.0, 0.0, 3.0, 0.0])
    low, high = np.full(2, 0.1), np.full(2, 0.7)
    drawn = np.array([misfits.point(measured, errors, low, high, rng) for _ in range(200)])
    weights = misfits.weights(drawn)
    assert weights.min() >= -0.3 - 1e-9 and weights.max() <= 0.9 + 1e-9  # the region's edges
    bins = [bin_of(w) for w in weights]
    assert bins.count((2, 0, 0)) > 50
    assert all(bins.count(bin_of(w)) < 15 for w in ring[[0, 1, 3]])
    assert sum(min(w) < 0 for w in weights) > 30  # no trial has a negative weight


def test_groups_keep_their_differences_and_densities_their_place() -> None:
    """Only the mean weight of a model is drawn; the rest is that of a point of the region."""
    names = ("a/0/weight", "a/1/weight", "a/0/density", "b/0/weight")
    space = Space(tuple(Parameter(name, 0.0, 1.0) for name in names))
    misfits, rng = Misfits.of("bayesian_map", space), np.random.default_rng(2)
    assert misfits.weights(np.array([[0.2, 0.6, 0.9, 0.5]])).tolist() == [[0.4, 0.5]]
    box = np.full(4, 0.3), np.full(4, 0.5)
    for _ in range(20):
        point = misfits.point(np.full((1, 4), 0.4), np.ones(1), *box, rng)
        assert ((point >= 0) & (point <= 1)).all()
        assert 0.3 <= point[2] <= 0.5
        assert misfits.weights(point[None]).max() <= 0.5 + 0.1


def test_a_space_without_weights_is_refused() -> None:
    space = Space((Parameter("a/*/density", 0.1, 1.0),))
    with pytest.raises(UsageError, match="no weight is searched; free one"):
        make_sampler("bayesian_map", SearchProblem(space, 1, 20, 0), {})
