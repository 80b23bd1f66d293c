"""Every sampler against every problem: what `evomerge.interfaces.Sampler` promises."""

from __future__ import annotations

import logging
import random
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evomerge.interfaces import Asked, Observation, Proposal, SearchProblem
from evomerge.search.registry import make_sampler
from evomerge.space import Array, Parameter, Space
from tests.search.memory_log import MemoryLog

SEVERAL_GOALS = [
    "auto",
    "bayesian",
    "bayesian_map",
    "map",
    "margin",
    "margin_evolution",
    "random",
    "sobol",
    "nsga2",
    "nsga3",
    "tpe",
    "optuna:NSGAIISampler",
    "optuna:QMCSampler",
    "optuna:RandomSampler",
    "optuna:TPESampler",
]
ONE_GOAL = [
    *SEVERAL_GOALS,
    "cma",
    "evo_merging",
    "lorahub",
    "pcb_es",
    "nevergrad:CMA",
    "nevergrad:DE",
    "nevergrad:OnePlusOne",
    "nevergrad:PSO",
    "nevergrad:TwoPointsDE",
]
CASES = [(name, 1) for name in ONE_GOAL] + [(name, 3) for name in SEVERAL_GOALS]
BLIND = {"random", "sobol", "optuna:QMCSampler", "optuna:RandomSampler"}
PUBLISHED = {"evo_merging", "lorahub", "pcb_es"}  # they start where their papers start
UNSEEDED = {"optuna:QMCSampler"}  # Optuna does not scramble its Sobol sequence by default

OWN_TRIALS = 26


def problem(goals: int, dimensions: int = 4, *, trials: int | None = 40) -> SearchProblem:
    names = [f"m{i // 2}/*/{('weight', 'density')[i % 2]}" for i in range(dimensions)]
    space = Space(tuple(Parameter(name, 0.0, 1.0) for name in names))
    return SearchProblem(space, goals, trials, seed=5)


def losses(point: Array, goals: int) -> Array:
    """Bowls with their centres apart."""
    return np.array([np.sum((point - (goal + 1) / (goals + 1)) ** 2) for goal in range(goals)])


def ended(asked: Asked, goals: int, *, limited: bool = True) -> Observation:
    """Every seventh trial fails; of the others, those with x0 > 0.8 miss a limit."""
    if asked.number % 7 == 6:
        return Observation(asked.number, asked.point, None, None)
    violation = max(0.0, float(asked.point[0]) - 0.8) if limited else 0.0
    return Observation(asked.number, asked.point, losses(asked.point, goals), violation)


def references(dimensions: int) -> list[Array]:
    corners = [np.full(dimensions, 0.25), np.full(dimensions, 0.75), np.full(dimensions, 0.5)]
    return [np.append(0.5, corner[1:]) if dimensions > 1 else corner for corner in corners]


def campaign(name: str, searched: SearchProblem, *, own: int = OWN_TRIALS) -> MemoryLog:
    """References first; ends come late and in pairs out of order; four trials stay pending."""
    sampler, log = make_sampler(name, searched, {}), MemoryLog()
    first = references(len(searched.space))
    for number in range(len(first) + own):
        if number >= 4 and number % 2 == 0:
            for late in (number - 3, number - 4):
                log.entries.append(ended(log.asks()[late], searched.goals))
        if number < len(first):
            log.entries.append(Asked(number, first[number], own=False, note={}))
        else:
            proposal = sampler.ask(log, number)
            log.entries.append(Asked(number, proposal.point, own=True, note=proposal.note))
    return log


@pytest.fixture(scope="module")
def campaigns() -> dict[tuple[str, int], MemoryLog]:
    return {}


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}goals")
def case(
    request: pytest.FixtureRequest, campaigns: dict[tuple[str, int], MemoryLog]
) -> tuple[str, SearchProblem, MemoryLog]:
    """A sampler's name, its problem, and the log of a campaign; made once for all tests."""
    name, goals = request.param
    if request.param not in campaigns:
        campaigns[request.param] = campaign(name, problem(goals))
    return name, problem(goals), campaigns[request.param]


Case = tuple[str, SearchProblem, MemoryLog]


def test_points_lie_in_the_cube(case: Case) -> None:
    _, searched, log = case
    points = np.array([asked.point for asked in log.asks()])
    assert points.shape == (OWN_TRIALS + 3, len(searched.space))
    assert np.isfinite(points).all()
    assert (points >= 0).all() and (points <= 1).all()


def test_different_numbers_give_different_points(case: Case) -> None:
    _, _, log = case
    own = [tuple(asked.point) for asked in log.asks() if asked.own]
    assert len(set(own)) == len(own)


def test_a_fresh_sampler_on_any_cut_of_the_log_proposes_what_was_proposed(case: Case) -> None:
    name, searched, log = case
    for position, event in enumerate(log.entries):
        if isinstance(event, Asked) and event.own and event.number % 5 == 3:
            again = make_sampler(name, searched, {}).ask(log.cut(position), event.number)
            assert again.point.tobytes() == event.point.tobytes()
            assert again.note == event.note


def test_a_proposal_that_was_never_recorded_leaves_no_trace(case: Case) -> None:
    """A coordinator that dies between ask and commit asks again; so does one that lives on."""
    name, searched, log = case
    number = len(log.asks())
    expected = make_sampler(name, searched, {}).ask(log, number)
    sampler = make_sampler(name, searched, {})
    sampler.ask(log.cut(len(log) - 6), number - 3)
    sampler.ask(log, number + 1)
    assert sampler.ask(log, number).point.tobytes() == expected.point.tobytes()
    assert sampler.ask(log, number).note == expected.note


def test_a_sampler_that_lived_on_agrees_with_a_fresh_one_after_more_ends(case: Case) -> None:
    name, searched, log = case
    sampler, number = make_sampler(name, searched, {}), len(log.asks())
    proposal = sampler.ask(log, number)
    longer = log.cut(len(log))
    longer.entries.append(Asked(number, proposal.point, own=True, note=proposal.note))
    longer.entries.append(ended(longer.asks()[-1], searched.goals))
    fresh = make_sampler(name, searched, {}).ask(longer, number + 1)
    lived = sampler.ask(longer, number + 1)
    assert lived.point.tobytes() == fresh.point.tobytes()
    assert lived.note == fresh.note


def test_global_random_state_is_neither_read_nor_written(case: Case) -> None:
    name, searched, log = case
    proposals: list[Proposal] = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = _global_state()
        proposals.append(make_sampler(name, searched, {}).ask(log, len(log.asks())))
        assert _global_state() == before
    assert proposals[0].point.tobytes() == proposals[1].point.tobytes()


def _global_state() -> tuple[Any, ...]:
    _, words, position, gauss, cached = np.random.get_state()  # noqa: NPY002
    return random.getstate(), words.tobytes(), position, gauss, cached


@pytest.mark.parametrize("name", [n for n in ONE_GOAL if n not in UNSEEDED])
def test_another_seed_gives_other_points(name: str) -> None:
    """From the second point on: the first may be the references' mean, whatever the seed."""
    logs = [campaign(name, replace(problem(1), seed=seed), own=2) for seed in (5, 6)]
    assert not np.array_equal(*(log.asks()[-1].point for log in logs))


def test_failed_trials_and_their_losses_are_not_learnt_from(case: Case) -> None:
    """A NaN that slipped in counts as a failure, never as a score."""
    name, searched, log = case
    broken = [
        replace(event, losses=np.full(searched.goals, np.nan))
        if isinstance(event, Observation) and event.losses is None
        else event
        for event in log.entries
    ]
    number = len(log.asks())
    expected = make_sampler(name, searched, {}).ask(log, number).point
    assert np.array_equal(
        make_sampler(name, searched, {}).ask(MemoryLog(broken), number).point, expected
    )


def test_the_library_is_silent_and_what_was_set_stays_set(
    case: Case, capfd: pytest.CaptureFixture[str]
) -> None:
    name, searched, log = case
    levels = [logging.getLogger(library).level for library in ("optuna", "nevergrad")]
    filters = list(warnings.filters)
    make_sampler(name, searched, {}).ask(log, len(log.asks()))
    assert capfd.readouterr() == ("", "")
    assert levels == [logging.getLogger(library).level for library in ("optuna", "nevergrad")]
    assert warnings.filters == filters


@pytest.mark.parametrize("name", [n for n in ONE_GOAL if n not in BLIND | PUBLISHED])
def test_warm_starts_are_learnt_from(name: str) -> None:
    """The same points with other losses lead elsewhere, whoever asked for them."""
    rng = np.random.default_rng(0)
    points = rng.random((60, 4))
    asks: list[Asked | Observation] = [Asked(n, x, False, {}) for n, x in enumerate(points)]
    proposals = []
    for target in (0.1, 0.9):
        ends = [
            Observation(n, x, np.array([np.sum((x - target) ** 2)]), 0.0)
            for n, x in enumerate(points)
        ]
        log, sampler = MemoryLog([*asks, *ends]), make_sampler(name, problem(1), {})
        for number in range(60, 75):
            proposal = sampler.ask(log, number)
            log.entries.append(Asked(number, proposal.point, True, proposal.note))
        proposals.append(np.mean([asked.point for asked in log.asks()[60:]]))
    assert proposals[0] != proposals[1]


@pytest.mark.parametrize("name", ONE_GOAL)
@pytest.mark.parametrize("dimensions", [1, 2, 33])
@pytest.mark.parametrize("trials", [1, None])
def test_odd_sizes_work(name: str, dimensions: int, trials: int | None) -> None:
    searched = problem(1, dimensions, trials=trials)
    log = campaign(name, searched, own=9)
    points = np.array([asked.point for asked in log.asks()])
    assert points.shape == (12, dimensions)
    assert (points >= 0).all() and (points <= 1).all()


@pytest.mark.parametrize("name", ONE_GOAL)
def test_a_campaign_without_references_starts_too(name: str) -> None:
    log = MemoryLog()
    sampler = make_sampler(name, problem(1), {})
    for number in range(3):
        proposal = sampler.ask(log, number)
        log.entries.append(Asked(number, proposal.point, True, proposal.note))
    assert len({tuple(asked.point) for asked in log.asks()}) == 3


@pytest.mark.parametrize("name", [n for n in ONE_GOAL if n not in BLIND])
def test_learning_beats_blind_points(name: str) -> None:
    """On a smooth bowl, the last of 120 points lie closer to its bottom than the first did."""
    searched = problem(1, 5, trials=120)
    log = campaign(name, searched, own=120)
    values = [float(losses(asked.point, 1)[0]) for asked in log.asks()[3:]]
    assert np.median(values[-25:]) < np.median(values[:25])
