"""What `auto` picks, and its initial design."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from evomerge.interfaces import Asked, Observation, SearchProblem
from evomerge.search.auto import choose, design_point, make
from evomerge.search.registry import make_sampler
from evomerge.space import Parameter, Space

SPACE = Space(tuple(Parameter(f"p{i}", 0.0, 1.0) for i in range(6)))
PROBLEM = SearchProblem(SPACE, 3, 60, seed=1)
CORNERS = np.array([[0.25] * 6, [0.75] * 6])


class ListLog(list[Asked | Observation]):
    def events(self, start: int = 0) -> Iterator[Asked | Observation]:
        yield from self[start:]


@pytest.mark.parametrize(
    ("goals", "trials", "name"),
    [
        (1, 60, "cma"),
        (1, None, "cma"),
        (2, 60, "tpe"),
        (3, None, "tpe"),
        (2, 501, "nsga2"),
        (3, 501, "nsga3"),
    ],
)
def test_goals_and_budget_choose(goals: int, trials: int | None, name: str) -> None:
    sampler, why = choose(replace(PROBLEM, goals=goals, trials=trials))
    assert sampler == name
    assert "6 parameters" in why


def test_the_design_begins_at_the_mean_of_the_references() -> None:
    assert np.array_equal(design_point(CORNERS, PROBLEM, 0), np.full(6, 0.5))


def test_the_design_mixes_the_references_with_small_steps() -> None:
    points = np.array([design_point(CORNERS, PROBLEM, index) for index in range(1, 200)])
    assert (points >= 0).all() and (points <= 1).all()
    assert abs(points.mean() - 0.5) < 0.02
    # A uniform share of the way from 0.25 to 0.75 (variance 0.5**2 / 12) and a step of 0.1.
    assert abs(points.std() - np.sqrt(0.25 / 12 + 0.1**2)) < 0.02


def test_without_references_the_design_fills_the_cube() -> None:
    points = np.array([design_point(np.empty((0, 6)), PROBLEM, index) for index in range(64)])
    assert np.abs(points.mean(axis=0) - 0.5).max() < 0.02  # a Sobol net is balanced


def test_a_longer_budget_leaves_a_study_that_has_begun_its_sampler() -> None:
    log, sampler = ListLog(), make(PROBLEM, {})
    for number in range(20):
        proposal = sampler.ask(log, number)
        log.append(Asked(number, proposal.point, True, proposal.note))
        losses = np.array([np.sum((proposal.point - c) ** 2) for c in (0.1, 0.5, 0.9)])
        log.append(Observation(number, proposal.point, losses, 0.0))
    assert log[0].note["auto"] == {"sampler": "tpe", "design": 8}
    extended = make(replace(PROBLEM, trials=5000), {}).ask(log, 20)
    assert extended.note["auto"] == {"sampler": "tpe", "design": 8}
    assert extended.point.tobytes() == sampler.ask(log, 20).point.tobytes()


def test_after_the_design_the_inner_sampler_proposes_what_it_would_alone() -> None:
    """It sees the design's points as another's."""
    log, alone, sampler = ListLog(), ListLog(), make(PROBLEM, {})
    for number in range(10):
        proposal = sampler.ask(log, number)
        log.append(Asked(number, proposal.point, True, proposal.note))
        alone.append(Asked(number, proposal.point, number >= 8, proposal.note.get("inner", {})))
        for each in (log, alone):
            losses = np.array([np.sum((proposal.point - c) ** 2) for c in (0.1, 0.5, 0.9)])
            each.append(Observation(number, proposal.point, losses, 0.0))
    expected = make_sampler("tpe", PROBLEM, {}).ask(alone, 10)
    assert sampler.ask(log, 10).point.tobytes() == expected.point.tobytes()
