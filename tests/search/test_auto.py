"""What `auto` picks, and its initial design."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from evomerge.interfaces import Asked, Observation, SearchProblem
from evomerge.search.auto import choose, design_point, make
from evomerge.search.registry import make_sampler
from evomerge.space import Array, Parameter, Space

SPACE = Space(tuple(Parameter(f"p{i}", 0.0, 1.0) for i in range(6)))
PROBLEM = SearchProblem(SPACE, 3, 60, seed=1)
CORNERS = np.array([[0.25] * 6, [0.75] * 6])


class ListLog(list[Asked | Observation]):
    def events(self, start: int = 0) -> Iterator[Asked | Observation]:
        yield from self[start:]


@pytest.mark.parametrize(
    ("goals", "trials", "name"),
    [
        (1, 60, "margin"),
        (1, None, "margin"),
        (3, 500, "margin"),
        (1, 501, "cma"),
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


def told(log: ListLog, number: int, point: Array, losses: list[float]) -> None:
    log.append(Observation(number, point, np.array(losses), 0.0))


def bowls(point: Array) -> list[float]:
    return [float(np.sum((point - c) ** 2)) for c in (0.1, 0.5, 0.9)]


def test_a_longer_budget_leaves_a_study_that_has_begun_its_sampler() -> None:
    log, sampler = ListLog(), make(PROBLEM, {})
    for number in range(24):
        proposal = sampler.ask(log, number)
        log.append(Asked(number, proposal.point, True, proposal.note))
        told(log, number, proposal.point, bowls(proposal.point))
    assert log[0].note["auto"] == {"sampler": "margin", "design": 0}
    extended = make(replace(PROBLEM, trials=5000), {}).ask(log, 24)
    assert extended.note["auto"] == {"sampler": "margin", "design": 0}
    assert extended.point.tobytes() == sampler.ask(log, 24).point.tobytes()


@pytest.mark.parametrize("trials", [60, 501])
def test_the_inner_sampler_proposes_what_it_would_alone(trials: int) -> None:
    """It sees the design's points as another's."""
    problem = replace(PROBLEM, trials=trials)
    name, _ = choose(problem)
    log, alone, sampler = ListLog(), ListLog(), make(problem, {})
    for number in range(24):
        proposal = sampler.ask(log, number)
        log.append(Asked(number, proposal.point, True, proposal.note))
        inner = proposal.note.get("inner")
        alone.append(Asked(number, proposal.point, inner is not None, inner or {}))
        for each in (log, alone):
            told(each, number, proposal.point, bowls(proposal.point))
    expected = make_sampler(name, problem, {}).ask(alone, 24)
    assert sampler.ask(log, 24).point.tobytes() == expected.point.tobytes()


def test_a_landscape_that_no_surrogate_understands_is_left_to_tpe() -> None:
    """Losses that have nothing to do with the point."""
    rng = np.random.default_rng(4)
    log, sampler = ListLog(), make(PROBLEM, {})
    for number in range(44):
        proposal = sampler.ask(log, number)
        log.append(Asked(number, proposal.point, True, proposal.note))
        told(log, number, proposal.point, rng.normal(size=3).tolist())
    by = [asked.note.get("by", "margin") for asked in log if isinstance(asked, Asked)]
    assert set(by[:24]) == {"margin"}
    assert by[24:].count("tpe") >= 15
    asks = [(i, e) for i, e in enumerate(log) if isinstance(e, Asked) and "by" in e.note]
    for position, asked in (asks[0], asks[-1]):
        again = make(PROBLEM, {}).ask(ListLog(log[:position]), asked.number)
        assert again.note == asked.note
        assert again.point.tobytes() == asked.point.tobytes()


def test_a_study_begun_with_tpe_goes_on_with_it() -> None:
    """As the first version chose; its notes name no sampler beside the choice."""
    log = ListLog()
    choice = {"sampler": "tpe", "design": 2}
    for number in range(6):
        point = np.full(6, 0.1 * number)
        inner = {"inner": {}} if number >= 2 else {}
        log.append(Asked(number, point, True, {"auto": choice, **inner}))
        told(log, number, point, bowls(point))
    note = make(PROBLEM, {}).ask(log, 6).note
    assert note["auto"] == choice
    assert "explained" not in note["inner"]
