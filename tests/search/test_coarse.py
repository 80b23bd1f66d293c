"""Wide spaces: numbers of a model and field move together until there are trials enough."""

from __future__ import annotations

import numpy as np

from evomerge.interfaces import Asked, Observation, SearchProblem
from evomerge.search.coarse import is_coarse, tie
from evomerge.search.margin import MarginSampler
from evomerge.space import Array, Coordinate, Parameter, Space
from tests.search.memory_log import MemoryLog

DEPTHS = 24
SPACE = Space(
    tuple(
        Parameter(f"{model}/{i}", -0.5, 1.5, "linear", Coordinate(model, i / 23, None, "weight"))
        for model in ("math", "code", "chat")
        for i in range(DEPTHS)
    )
)
PROBLEM = SearchProblem(SPACE, 1, 40, seed=1)


def test_a_trial_for_every_eight_numbers_is_enough() -> None:
    """Of 72 numbers 9, and one more for each model that was not measured.

    In a space without coordinates nothing moves together.
    """
    assert [trials for trials in range(30) if is_coarse(PROBLEM, trials)] == list(range(9))
    assert [trials for trials in range(30) if is_coarse(PROBLEM, trials, 3)] == list(range(12))
    plain = Space(tuple(Parameter(str(i), 0.0, 1.0) for i in range(72)))
    assert not is_coarse(SearchProblem(plain, 1, 40, seed=1), 0)


def test_a_tie_takes_means_over_depth() -> None:
    gradient = np.zeros((1, len(SPACE)))
    gradient[0, 0], gradient[0, DEPTHS] = 24.0, -48.0
    tied = tie(PROBLEM)(gradient).reshape(3, DEPTHS)
    assert (tied == np.array([[1.0], [-2.0], [0.0]])).all()


def test_asks_are_the_same_at_every_depth_and_differ_later() -> None:
    log, sampler = MemoryLog(), MarginSampler(PROBLEM)
    for number in range(16):
        point = sampler.ask(log, number).point
        log.entries += [Asked(number, point, True, {}), Observation(number, point, *_ended(point))]
    spread = [np.ptp(asked.point.reshape(3, DEPTHS), axis=1).max() for asked in log.asks()]
    assert max(spread[:12]) < 1e-6
    assert max(spread[12:]) > 1e-3


def _ended(point: Array) -> tuple[Array, float]:
    """The bottom is not the same at every depth."""
    bottom = np.linspace(0.3, 0.7, DEPTHS)
    return np.array([((point.reshape(3, DEPTHS) - bottom) ** 2).mean()]), 0.0
