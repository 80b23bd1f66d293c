"""The sampler on items' margins: what it does with them, and that it stays a pure function."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from evomerge.interfaces import Asked, ItemLosses, Observation, Prediction, SearchProblem
from evomerge.search.ascent import RADIUS
from evomerge.search.centred import centre_of, centred_point, design_size
from evomerge.search.knowledge import _learning_size
from evomerge.search.margin import MarginSampler
from evomerge.search.preferences import Preference, ranges
from evomerge.search.region import MOST
from evomerge.search.registry import make_sampler
from evomerge.space import Array, Coordinate, Parameter, Space
from evomerge.surrogates.history import FitError

SPACE = Space(
    tuple(
        Parameter(
            f"{model}/{layer}/{field}",
            low,
            high,
            "linear",
            Coordinate(model, layer / 2, None, field),
        )
        for model in ("math", "code")
        for layer in range(3)
        for field, low, high in (("weight", -0.5, 1.5), ("density", 0.05, 1.0))
    )
)
D, ITEMS = len(SPACE), 50
PENDING = 4
_RNG = np.random.default_rng(3)
SLOPES = _RNG.normal(size=(2, D, 1)) + 0.5 * _RNG.normal(size=(2, D, ITEMS))
OFFSETS = _RNG.normal(size=(2, ITEMS))


def problem(goals: int = 2, *, limits: tuple[float, ...] = ()) -> SearchProblem:
    return SearchProblem(SPACE, goals, 40, seed=8, limits=limits)


def items(point: Array, goals: int) -> tuple[ItemLosses, ...]:
    """Each goal's bowl has its own bottom; an item goes wrong where it is too far away."""
    found = []
    for goal in range(goals):
        away = point - 0.35 - 0.3 * goal
        margins = 4 * np.mean(away**2) - 0.15 + 0.05 * (away @ SLOPES[goal] + OFFSETS[goal])
        found.append(ItemLosses((margins > 0).astype(float), margins))
    return tuple(found)


class ListLog(list[Asked | Observation]):
    def events(self, start: int = 0) -> Iterator[Asked | Observation]:
        yield from self[start:]

    def asks(self) -> list[Asked]:
        return [event for event in self if isinstance(event, Asked)]


def ended(asked: Asked, goals: int, *, margins: bool = True) -> Observation:
    if asked.number % 9 == 8:
        return Observation(asked.number, asked.point, None, None)
    found = items(asked.point, goals)
    if not margins:
        found = tuple(ItemLosses(one.losses, None) for one in found)
    losses = np.array([one.losses.mean() for one in found])
    errors = np.sqrt(losses * (1 - losses) / ITEMS)
    return Observation(asked.number, asked.point, losses, 0.0, errors, lambda: found)


def campaign(
    searched: SearchProblem, own: int, *, margins: bool = True, pending: int = 4
) -> ListLog:
    log, sampler = ListLog(), make_sampler("margin", searched, {})
    for number in range(own):
        if number > PENDING:
            log.append(ended(log.asks()[number - PENDING - 1], searched.goals, margins=margins))
        proposal = sampler.ask(log, number)
        log.append(Asked(number, proposal.point, True, proposal.note))
    return log


@pytest.fixture(scope="module")
def log() -> ListLog:
    return campaign(problem(), 34)


def test_a_fresh_sampler_proposes_what_one_that_lived_on_did(log: ListLog) -> None:
    for position, event in enumerate(log):
        if isinstance(event, Asked) and event.number % 4 == 3:
            again = make_sampler("margin", problem(), {}).ask(ListLog(log[:position]), event.number)
            assert again.point.tobytes() == event.point.tobytes()
            assert again.note == event.note


def test_pending_trials_give_different_asks() -> None:
    longer, sampler = campaign(problem(1), 24), make_sampler("margin", problem(1), {})
    for number in range(24, 30):
        longer.append(Asked(number, sampler.ask(longer, number).point, True, {}))
    points = np.array([asked.point for asked in longer.asks()[20:]])
    apart = np.abs(points[:, None] - points[None, :]).max(axis=2)
    assert apart[~np.eye(len(points), dtype=bool)].min() > 1e-3


def test_asks_stay_near_what_was_measured(log: ListLog) -> None:
    points = np.array([asked.point for asked in log.asks()])
    for i in range(design_size(40), len(points)):
        away = np.abs(points[:i] - points[i]).max(axis=1)
        assert away.min() <= RADIUS + 1e-12


def test_one_goals_asks_stay_in_the_region_of_their_record() -> None:
    log, sampler = campaign(problem(1), 24), MarginSampler(problem(1))
    for position, event in enumerate(log):
        if isinstance(event, Asked) and event.number >= 12:
            point = sampler.ask(ListLog(log[:position]), event.number).point
            away = np.abs(np.array([e.point for e in log[:position]]) - point).max(axis=1)
            assert away.min() <= sampler._known.radius + 1e-12 <= MOST + 2e-12


def test_few_asks_go_where_all_fail() -> None:
    """Both bottoms are beyond 0.62 of the first parameter, where no trial succeeds."""
    space = Space(tuple(Parameter(name, 0.0, 1.0) for name in "abc"))
    bottoms = np.array([[0.9, 0.5, 0.5], [0.8, 0.2, 0.7]])
    for goals in (1, 2):
        log, sampler = ListLog(), MarginSampler(SearchProblem(space, goals, 60, seed=8))
        for number in range(32):
            if number > PENDING:
                end = log.asks()[number - PENDING - 1]
                losses = ((end.point - bottoms[:goals]) ** 2).mean(axis=1)
                told = (None, None) if end.point[0] > 0.62 else (losses, 0.0)
                log.append(Observation(end.number, end.point, *told))
            proposal = sampler.ask(log, number)
            log.append(Asked(number, proposal.point, True, proposal.note))
        failed = [asked.point[0] > 0.62 for asked in log.asks()[16:]]
        assert sum(failed) < len(failed) / 2


def test_it_comes_closer_to_every_goal_than_its_design(log: ListLog) -> None:
    losses = np.array([[one.losses.mean() for one in items(a.point, 2)] for a in log.asks()])
    size = design_size(40)
    assert (losses[size:].min(axis=0) < losses[:size].min(axis=0)).all()


def test_margins_help() -> None:
    """Of two campaigns the one that sees margins comes closer to the bottom."""
    best = []
    for margins in (True, False):
        last = campaign(problem(1), 30, margins=margins).asks()[-10:]
        best.append(min(np.mean(items(a.point, 1)[0].margins) for a in last))
    assert best[0] < best[1]


def test_the_fit_is_told_in_the_note(log: ListLog) -> None:
    assert log.asks()[0].note == {"design": 4}
    assert len(log.asks()[-1].note["explained"]) == 2
    assert len(log.asks()[-1].note["margins"]) == 2


def test_forecasts_are_told_in_the_note(log: ListLog) -> None:
    foretold = np.array(log.asks()[-1].note["foretold"])
    assert foretold.shape == (2, 3)
    assert (foretold[:, 1:] >= 0).all()


def test_items_of_changing_numbers_and_missing_margins_break_nothing() -> None:
    log = campaign(problem(), 16)
    odd = ItemLosses(np.array([0.5]), None)

    def told() -> tuple[ItemLosses, ...]:
        return odd, odd

    for i, event in enumerate(log):
        if isinstance(event, Observation) and event.losses is not None and i % 3 == 0:
            log[i] = Observation(
                event.number, event.point, event.losses, 0.0, None, lambda: (odd, odd)
            )
    assert np.isfinite(make_sampler("margin", problem(), {}).ask(log, 16).point).all()


@pytest.mark.parametrize("shift", [4.0, 10.0, 40.0])
def test_asks_go_on_where_the_goal_is_solved(shift: float) -> None:
    """Margins far from 0; one loss in a hundred is against its margin's sign."""
    log = campaign(problem(1), 16)
    for i, event in enumerate(log):
        if isinstance(event, Observation) and event.losses is not None:
            margins = items(event.point, 1)[0].margins - shift
            wrong = (np.arange(ITEMS) == event.number % (2 * ITEMS)).astype(float)
            told = (ItemLosses(wrong, margins),)
            losses = np.array([wrong.mean()])
            log[i] = Observation(
                event.number, event.point, losses, 0.0, None, lambda told=told: told
            )
    assert np.isfinite(make_sampler("margin", problem(1), {}).ask(log, 16).point).all()
    predicted = MarginSampler(problem(1)).surrogate(log).predict(np.full((2, D), 0.4))
    assert np.isfinite(predicted.mean).all()
    assert np.isfinite(predicted.std).all()


def test_the_belief_of_a_sampler_can_be_asked_for(log: ListLog) -> None:
    surrogate = MarginSampler(problem()).surrogate(log)
    assert surrogate.predict(np.full((3, D), 0.4)).mean.shape == (3, 2)
    assert all(fit.explained > 0.5 for fit in surrogate.fits)
    with pytest.raises(FitError, match="no trial has ended"):
        MarginSampler(problem()).surrogate(ListLog())


def test_a_limit_keeps_asks_where_it_is_met() -> None:
    """The second goal may not lose more than a tenth."""
    asked = {}
    for limits in ((), (float("inf"), 0.1)):
        last = campaign(problem(limits=limits), 26).asks()[-10:]
        losses = [items(a.point, 2)[1].losses.mean() for a in last]
        asked[limits] = np.mean(np.array(losses) <= 0.14)
    assert asked[(float("inf"), 0.1)] > asked[()]


def test_the_design_is_a_third_of_a_small_budget() -> None:
    assert [design_size(trials) for trials in (None, 200, 12, 9, 3, 1)] == [4, 4, 4, 3, 1, 1]


def test_models_that_are_not_measured_make_the_design_longer() -> None:
    """A point more for every four of them, a third of the budget at most."""
    assert [design_size(100, unmeasured) for unmeasured in (0, 3, 4, 32)] == [4, 4, 5, 12]
    assert design_size(30, 100) == 10


def test_the_design_of_a_large_pool_is_gentle() -> None:
    """Of 32 models the share is (8 / 32) to 1.5, an eighth: 0.3 becomes 0.0375, 0.6 0.075."""
    places = [Coordinate(f"m{i}", None, None, "weight") for i in range(32)]
    space = Space(tuple(Parameter(c.model or "", -1.0, 1.0, "linear", c) for c in places))
    pool = SearchProblem(space, 1, 50, seed=0)
    centre = centre_of(pool, np.empty((0, 32)))
    assert centre == pytest.approx((1 + 0.0375) / 2)
    assert centred_point(pool, centre, 1) == pytest.approx((1 + 0.075) / 2)
    steps = np.array([centred_point(pool, centre, i) for i in range(2, 50)]) - centre
    assert abs(steps.std() - 0.15 * np.sqrt(1 / 8)) < 0.005


def test_the_centre_is_task_arithmetic_at_half_density() -> None:
    """Two models: weights 0.5; a density of 0.5."""
    values = SPACE.values(centre_of(problem(), np.empty((0, D))))
    assert values["math/0/weight"] == pytest.approx(0.5)
    assert values["code/2/density"] == pytest.approx(0.5)


def test_the_design_has_larger_weights_then_takes_steps() -> None:
    centre = centre_of(problem(), np.empty((0, D)))
    second = SPACE.values(centred_point(problem(), centre, 1))
    assert [second[f"math/{i}/weight"] for i in range(3)] == pytest.approx([0.6] * 3)
    assert second["code/1/density"] == pytest.approx(0.5)
    later = np.array([centred_point(problem(), centre, i) for i in range(2, 200)])
    assert abs((later - centre).std() - 0.15) < 0.02


def test_without_coordinates_the_centre_is_the_references_mean() -> None:
    plain = SearchProblem(Space((Parameter("a", 0.0, 1.0),)), 1, 30, 0)
    assert centre_of(plain, np.array([[0.2], [0.6]])).tolist() == [0.4]
    assert centre_of(plain, np.empty((0, 1))).tolist() == [0.5]


def test_kernels_are_learnt_anew_when_the_history_has_grown_by_a_quarter() -> None:
    assert [_learning_size(n) for n in (1, 4, 5, 9, 10, 100)] == [1, 4, 5, 8, 10, 97]


def test_a_preference_and_its_slopes() -> None:
    """By hand: normalised losses 0.5 and 0, weights 0.8 and 0.2, no smoothing to speak of."""
    wish = Preference(
        np.array([0.8, 0.2]), np.array([0.0, 1.0]), np.array([2.0, 3.0]), 0.0, np.full(2, np.inf)
    )
    mean = np.array([[1.0, 1.0], [0.3, 2.9]])
    flat = np.zeros_like(mean)
    value = wish.value(Prediction(mean, flat, flat))
    assert value[0] == pytest.approx(0.4 + 0.05 * 0.4, abs=1e-4)
    by_mean, by_std = wish.slopes(Prediction(mean, flat, flat))
    for goal, step in enumerate(1e-6 * np.eye(2)):
        up = wish.value(Prediction(mean + step, flat, flat))
        assert np.allclose((up - value) / 1e-6, by_mean[:, goal], atol=1e-4)
    assert not by_std.any()


def test_ranges_come_from_the_references_or_else_from_everything() -> None:
    measured = np.array([[0.2, 1.0], [0.6, 1.0], [0.1, 3.0]])
    best, worst = ranges(measured, [0, 1])
    assert best.tolist() == [0.2, 1.0]
    assert worst.tolist() == pytest.approx([0.6, 3.0])  # the references agree on the second goal
    assert ranges(measured, [0])[0].tolist() == [0.1, 1.0]
    assert ranges(np.ones((2, 1)), [0, 1]) == (1.0, 2.0)
