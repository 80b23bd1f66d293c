"""The closing table: who chooses, who judges, and what is said; worked by hand."""

from __future__ import annotations

import pytest

from evomerge.demo import comparison
from evomerge.demo.comparison import PUBLISHED, Comparison, Entrant, Published, duel, table
from evomerge.goals import Goal
from evomerge.trial import Scores

GOALS = (Goal("sums"), Goal("prose"))
SURE = [1.0] * 8
HALF = [1.0, 0.0] * 4
NONE = [0.0] * 8


def entrant(name: str, selection: list[list[float]], test: list[list[float]]) -> Entrant:
    def scores(parts: list[list[float]]) -> dict[str, Scores]:
        return {goal.metric: Scores(part) for goal, part in zip(GOALS, parts, strict=True)}

    return Entrant(name, None, {"selection": scores(selection), "test": scores(test)})


RIVAL = entrant("rival", [HALF, HALF], [HALF, HALF])


def test_the_selection_items_choose_and_the_test_items_judge() -> None:
    lucky = entrant("lucky", [SURE, SURE], [NONE, HALF])
    unlucky = entrant("unlucky", [HALF, HALF], [SURE, SURE])
    met = duel(RIVAL, [unlucky, lucky], GOALS)
    assert met.champion.name == "lucky"
    # half of 8 items differ by 1: mean -0.5, sample variance 2/7, error sqrt(2/7/8) = 0.189;
    # over both goals -0.25 +- 0.094
    assert met.verdicts == {"sums": "worse", "prose": "level", "mean": "worse"}
    assert met.outcome == "loses to"


def test_a_merge_that_is_worse_somewhere_is_not_chosen_for_its_lead_elsewhere() -> None:
    lopsided = entrant("lopsided", [SURE, NONE], [SURE, NONE])
    even = entrant("even", [[1.0, 1.0, 1.0, 0.0] * 2, HALF], [SURE, HALF])
    met = duel(RIVAL, [lopsided, even], GOALS)
    assert met.champion.name == "even"
    assert met.outcome == "beats"


def test_a_lopsided_merge_trades() -> None:
    met = duel(RIVAL, [entrant("lopsided", [SURE, NONE], [SURE, NONE])], GOALS)
    assert met.verdicts == {"sums": "better", "prose": "worse", "mean": "level"}
    assert met.outcome == "trades with"


def test_a_merge_is_level_with_itself() -> None:
    met = duel(RIVAL, [RIVAL], GOALS)
    assert set(met.verdicts.values()) == {"level"}
    assert met.outcome == "is level with"


def test_lower_is_better_where_a_goal_says_so() -> None:
    goals = (Goal("sums", "minimize"), Goal("prose"))
    met = duel(RIVAL, [entrant("low", [NONE, HALF], [NONE, HALF])], goals)
    assert met.verdicts["sums"] == "better"


def test_one_item_proves_nothing() -> None:
    rival = entrant("rival", [[0.0], [0.0]], [[0.0], [0.0]])
    met = duel(rival, [entrant("other", [[1.0], [1.0]], [[1.0], [1.0]])], GOALS)
    assert met.outcome == "is level with"


def test_a_difference_without_spread_is_certain() -> None:
    met = duel(
        entrant("rival", [NONE, NONE], [NONE, NONE]),
        [entrant("sure", [SURE, SURE], [SURE, SURE])],
        GOALS,
    )
    assert met.outcome == "beats"


def test_the_table_shows_the_front_then_its_rivals() -> None:
    merge = entrant("trial 9", [SURE, HALF], [SURE, HALF])
    shown = Comparison(GOALS, (merge,), (RIVAL,), (duel(RIVAL, [merge], GOALS),))
    front, rival = table(shown)
    assert front["on the test items"] == "trial 9"
    assert front["sums"] == "1.000 ± 0.000"
    assert rival["sums"] == "0.500 ± 0.189"
    assert rival["mean"] == "0.500 ± 0.134"  # hypot(0.189, 0.189) / 2
    assert (rival["set against"], rival["it is"]) == ("trial 9", "+ = +")
    (sentence,) = comparison.summary(shown)
    assert sentence == "trial 9 beats rival: better on sums, mean; level on prose"


def test_a_search_that_found_nothing_says_so() -> None:
    nothing = Comparison(GOALS, (), (RIVAL,), ())
    assert table(nothing)[0]["set against"] == ""
    assert "found no merge" in comparison.summary(nothing)[0]


def test_published_defaults_are_those_of_the_papers() -> None:
    by_method = {published.method: published for published in PUBLISHED}
    assert (by_method["ties"].density, by_method["ties"].scaling) == (0.2, 1.0)
    assert by_method["task_arithmetic"].scaling == 0.4


@pytest.mark.parametrize("density", [None, 0.2])
def test_published_parameters_name_every_tensor(density: float | None) -> None:
    parameters = Published("it", "ties", 1.0, density).parameters(["a", "b"])
    expected = {"**/scaling": 1.0, "a/**/weight": 1.0, "b/**/weight": 1.0}
    if density is not None:
        expected |= {"a/**/density": density, "b/**/density": density}
    assert parameters == expected
