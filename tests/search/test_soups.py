"""Greedy soup and top-k merging by kinship, on objectives whose best average is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from evomerge.errors import UsageError
from evomerge.interfaces import Asked, Observation, Sampler, SearchProblem
from evomerge.search.mixtures import Mixtures
from evomerge.search.registry import make_sampler
from evomerge.space import Array, Parameter, Space
from tests.search.memory_log import MemoryLog

Loss = Callable[[Mapping[str, float]], float | None]
ABC = ("a", "b", "c")


def problem(models: tuple[str, ...] = ABC, *, goals: int = 1, low: float = 0.0) -> SearchProblem:
    """Two groups of weights, and a density."""
    parameters = [Parameter(f"{m}/{g}/weight", low, 1.0) for m in models for g in ("0", "1")]
    parameters.append(Parameter("a/*/density", 0.1, 1.0, "log"))
    return SearchProblem(Space(tuple(parameters)), goals, 20, seed=3)


@dataclass
class Search:
    """A campaign: the models first, then a sampler's asks; they end late."""

    sampler: Sampler
    mixtures: Mixtures
    loss: Loss
    late: int = 0
    log: MemoryLog = field(default_factory=MemoryLog)

    def run(self, own: int) -> list[dict[str, float]]:
        """The weights of the sampler's own asks."""
        models = self.mixtures.models
        firsts = [self.mixtures.point({model: 1.0}) for model in models]
        points: list[Array] = []
        for number in range(len(models) + own):
            if number - 1 - self.late >= 0:
                self._end(number - 1 - self.late, points[number - 1 - self.late])
            mine = number >= len(models)
            point = self.sampler.ask(self.log, number).point if mine else firsts[number]
            points.append(point)
            self.log.entries.append(Asked(number, point, own=mine, note={}))
        return [self.mixtures.weights(point) for point in points[len(models) :]]

    def _end(self, number: int, point: Array) -> None:
        value = self.loss(self.mixtures.weights(point))
        losses = None if value is None else np.array([value])
        self.log.entries.append(Observation(number, point, losses, None if value is None else 0.0))


def search(name: str, loss: Loss, *, late: int = 0, **options: Any) -> Search:
    searched = problem()
    sampler = make_sampler(name, searched, options)
    return Search(sampler, Mixtures(name, searched.space), loss, late)


def near(target: Mapping[str, float]) -> Loss:
    """Distance from the weights that are best."""
    return lambda weights: sum((weights[m] - target[m]) ** 2 for m in weights)


def soups(weights: list[dict[str, float]]) -> list[str]:
    """Models with a weight, as one word each."""
    return ["".join(m for m, w in mix.items() if w > 1e-9) for mix in weights]


def test_a_model_that_makes_it_worse_is_left_out() -> None:
    """b is the best, then c, then a: b, then bc, which is best, then abc, which is not."""
    greedy = search("greedy_soup", near({"a": 0.0, "b": 0.6, "c": 0.4}))
    weights = greedy.run(2)
    assert soups(weights) == ["bc", "abc"]
    assert weights[0] == pytest.approx({"a": 0.0, "b": 0.5, "c": 0.5})
    assert weights[1] == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})


def test_what_makes_it_no_worse_joins() -> None:
    greedy = search("greedy_soup", lambda weights: 1.0)
    assert soups(greedy.run(2)) == ["ab", "abc"]


def test_a_model_that_failed_is_never_tried() -> None:
    loss = near({"a": 0.0, "b": 0.6, "c": 0.4})
    greedy = search("greedy_soup", lambda w: None if w["c"] == 1 else loss(w))
    assert soups(greedy.run(1)) == ["ab"]


def test_with_results_that_come_late_both_outcomes_are_tried() -> None:
    """The first pair is awaited, so what follows if it is taken, and if not, is asked too."""
    greedy = search("greedy_soup", near({"a": 0.0, "b": 0.6, "c": 0.4}), late=2)
    words = soups(greedy.run(4))
    assert words[0] == "ab"  # the order of the models is not known yet
    assert set(words) >= {"bc", "abc", "ab"}


def test_the_rest_of_a_budget_goes_around_the_soup() -> None:
    greedy = search("greedy_soup", near({"a": 0.0, "b": 0.5, "c": 0.5}))
    rest = greedy.run(6)[2:]
    assert len({tuple(mix.values()) for mix in rest}) == 4
    for mix in rest:
        assert abs(mix["b"] - 0.5) < 0.2 and abs(mix["c"] - 0.5) < 0.2 and mix["a"] < 0.2


def test_kinship_pairs_the_best() -> None:
    found = search("kinship", near({"a": 0.0, "b": 0.6, "c": 0.4}), top=2).run(2)
    assert soups(found) == ["bc", "bc"]
    assert found[0] == pytest.approx({"a": 0.0, "b": 0.5, "c": 0.5})
    assert found[1] == pytest.approx({"a": 0.0, "b": 0.75, "c": 0.25})


def test_every_third_proposal_is_with_the_least_akin() -> None:
    """The best is bc by then; with c close to both, a is what is least akin to it."""
    kin = {"a b": -0.5, "a c": 0.0, "b c": 0.9}
    found = search("kinship", near({"a": 0.0, "b": 0.5, "c": 0.5}), top=2, kin=kin).run(3)
    assert soups(found)[2] == "abc"
    assert found[2] == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.25})


@pytest.mark.parametrize("name", ["greedy_soup", "kinship"])
@pytest.mark.parametrize("late", [0, 3])
def test_a_proposal_is_a_function_of_log_number_and_seed(name: str, late: int) -> None:
    first = search(name, near({"a": 0.2, "b": 0.6, "c": 0.4}), late=late)
    first.run(8)
    for place, event in enumerate(first.log.entries):
        if isinstance(event, Asked) and event.own:
            again = make_sampler(name, problem(), {})
            point = again.ask(MemoryLog(first.log.entries[:place]), event.number).point
            assert point.tobytes() == event.point.tobytes()
    asked = [e.point.tobytes() for e in first.log.entries if isinstance(e, Asked)]
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("name", ["greedy_soup", "kinship"])
@pytest.mark.parametrize(
    ("searched", "words"),
    [
        (problem(goals=2), "one goal, the campaign has 2"),
        (problem(("a",)), "two models or more"),
        (problem(low=0.5), "its range is [0.5, 1]"),
        (
            SearchProblem(Space((*problem().space.parameters, Parameter("all/t", 0, 1))), 1, 9, 0),
            "t",
        ),
    ],
)
def test_spaces_without_averages_are_refused(
    name: str, searched: SearchProblem, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        make_sampler(name, searched, {})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tops": 3}, "'top'"),
        ({"top": 1}, "a whole number from 2"),
        ({"kin": 0.5}, "is wanted"),
        ({"kin": {"a d": 0.5}}, "two of these models"),
        ({"kin": {"a a": 0.5}}, "two of these models"),
        ({"kin": {"a b": 1.5}}, "a cosine lies in"),
        ({"kin": {"a b": float("nan")}}, "a cosine lies in"),
    ],
)
def test_wrong_options_of_kinship_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_sampler("kinship", problem(), options)
    assert words in str(caught.value)
