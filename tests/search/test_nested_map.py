"""Nested MAP on task vectors whose best mixtures are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.errors import UsageError
from evomerge.interfaces import Asked, Observation, SearchProblem
from evomerge.search.registry import make_sampler
from evomerge.space import Array, Parameter, Space
from evomerge.surrogates.responses import Response, Shape
from tests.search.memory_log import MemoryLog

MODELS = ("a", "b", "c", "d")
# Where each goal is best, by weight: a and b want each other, so do c and d.
TARGETS = np.array([[0.8, 0.3, 0, 0], [0.4, 0.7, 0, 0], [0, 0, 0.6, 0.2], [0, 0, 0.3, 0.9]])


def problem(models: tuple[str, ...] = MODELS, trials: int | None = 100) -> SearchProblem:
    parameters = [Parameter(f"{m}/*/weight", -0.5, 1.5) for m in models]
    return SearchProblem(Space(tuple(parameters)), len(models), trials, seed=2)


def weights_of(searched: SearchProblem, point: Array) -> Array:
    return np.array(list(searched.space.values(point).values()))


def losses(searched: SearchProblem, point: Array) -> Array:
    """Bowls in the weights, not between 0 and 1 as accuracies; a and b start alike, and c and d."""
    k = searched.goals
    floor = np.array([2.0, 2.0, 3.0, 3.0])[:k]
    return np.asarray(floor + ((weights_of(searched, point) - TARGETS[:k, :k]) ** 2).sum(axis=1))


def campaign(
    searched: SearchProblem, total: int, *, late: int = 0, fails: int = 0, **options: Any
) -> MemoryLog:
    """The models first; trials end late, and every `fails`-th fails or gives NaN in turn."""
    log, sampler = MemoryLog(), make_sampler("nested_map", searched, options)
    for number in range(total):
        if number > late:
            log.entries.append(end(searched, log.asks()[number - 1 - late], fails))
        if number < len(searched.space):
            ones = {n: float(i == number) for i, n in enumerate(searched.space.names)}
            log.entries.append(Asked(number, searched.space.point(ones), own=False, note={}))
        else:
            proposal = sampler.ask(log, number)
            log.entries.append(Asked(number, proposal.point, own=True, note=proposal.note))
    return log


def end(searched: SearchProblem, asked: Asked, fails: int = 0) -> Observation:
    if fails and asked.number % fails == fails - 1:
        broken = np.full(searched.goals, np.nan) if asked.number % 2 else None
        return Observation(asked.number, asked.point, broken, None)
    return Observation(asked.number, asked.point, losses(searched, asked.point), 0.0)


def own(log: MemoryLog) -> list[Asked]:
    return [asked for asked in log.asks() if asked.own]


def test_two_models_reach_the_best_mixture_without_noise() -> None:
    """The sum of the bowls is least at the mean of their centres, by the goals' spans."""
    searched = problem(MODELS[:2], trials=30)
    log = campaign(searched, 2 + 21)
    chosen = own(log)[20]
    assert "metric" in chosen.note
    spans = np.ptp([losses(searched, asked.point) for asked in log.asks()[:2]], axis=0)
    shares = (1 / spans) / (1 / spans).sum()
    expected = shares @ TARGETS[:2, :2]
    assert weights_of(searched, chosen.point) == pytest.approx(expected, abs=1e-4)
    assert chosen.note["metric"] == pytest.approx(losses(searched, chosen.point).mean(), abs=1e-6)


@pytest.mark.parametrize("shape", ["identity", "sigmoid", "softplus"])
def test_whatever_the_link_each_node_foretells_its_merge(shape: Shape) -> None:
    """Quadratics behind a link are found without noise: predicted and measured agree to 1e-6."""
    searched = problem()
    link = Response(shape, -1.0 if shape == "sigmoid" else 0.0, 0.0)

    def measure(point: Array) -> Array:
        return link.value(losses(searched, point) - 3.0)

    log, sampler = MemoryLog(), make_sampler("nested_map", searched, {})
    for number in range(3 * 21):
        proposal = sampler.ask(log, number)
        log.entries.append(Asked(number, proposal.point, own=True, note=proposal.note))
        log.entries.append(Observation(number, proposal.point, measure(proposal.point), 0.0))
    chosen = [asked for asked in log.asks() if "metric" in asked.note]
    assert len(chosen) == 3
    for asked, opened in zip(chosen, log.asks()[::21], strict=True):
        note = opened.note["open"]
        goals = [goal for i in note["pair"] for goal in note["forest"][i][0]]
        assert asked.note["links"] == [shape] * len(goals)
        assert asked.note["metric"] == pytest.approx(measure(asked.point)[goals].mean(), abs=1e-6)


def test_preferences_move_the_choice() -> None:
    searched = problem(MODELS[:2], trials=30)
    chosen = own(campaign(searched, 2 + 21, preferences=[1, 1e9]))[20]
    assert weights_of(searched, chosen.point) == pytest.approx(TARGETS[1, :2], abs=1e-3)


def test_the_tree_joins_what_is_near_and_ends_in_one_merge() -> None:
    """Each node takes 20 mixtures and the chosen one; nothing else is in a mixture."""
    searched = problem()
    log = campaign(searched, 4 + 3 * 21)
    opened = [asked.note["open"] for asked in own(log) if "open" in asked.note]
    joined = [sorted(g for i in o["pair"] for g in o["forest"][i][0]) for o in opened]
    assert sorted(joined[:2]) == [[0, 1], [2, 3]]
    assert joined[2] == [0, 1, 2, 3]
    for asked, first in zip(own(log)[:21], [joined[0]] * 21, strict=True):
        away = [i for i in range(4) if i not in first]
        assert weights_of(searched, asked.point)[away] == pytest.approx(0.0)
    models = losses(searched, own(log)[-1].point)
    references = np.array([losses(searched, asked.point) for asked in log.asks()[:4]])
    least = 2.5  # where every bowl has its floor
    assert models.mean() - least < 0.5 * (references.mean(axis=1).min() - least)


def test_what_is_left_measures_other_preferences() -> None:
    searched = problem(MODELS[:2], trials=40)
    rest = own(campaign(searched, 2 + 38))[21:]
    assert len({asked.point.tobytes() for asked in rest}) == len(rest) == 17
    mixed = np.array([weights_of(searched, asked.point) for asked in rest])
    line = TARGETS[0, :2] - TARGETS[1, :2]
    across = (mixed - TARGETS[0, :2]) @ np.array([-line[1], line[0]])
    assert np.median(np.abs(across)) < 0.01  # bowls trade off along the line of their centres


def test_a_short_budget_makes_small_designs_and_a_longer_one_does_not_change_them() -> None:
    log = campaign(problem(trials=40), 10)
    assert own(log)[0].note["open"]["size"] == 11  # (40 - 4) // 3 - 1
    longer = make_sampler("nested_map", problem(trials=4000), {}).ask(log, 10)
    assert (
        longer.point.tolist()
        == make_sampler("nested_map", problem(trials=40), {}).ask(log, 10).point.tolist()
    )


def test_failures_leave_no_trace_but_their_absence() -> None:
    log = campaign(problem(trials=60), 60, late=4, fails=4)
    points = [asked.point for asked in own(log)]
    assert len({point.tobytes() for point in points}) == len(points)
    assert any("metric" in asked.note for asked in own(log))


def test_a_search_in_which_everything_fails_goes_on_with_its_design() -> None:
    log = campaign(problem(trials=60), 40, fails=1)
    assert not any("metric" in asked.note for asked in own(log))


def test_another_process_asks_the_same() -> None:
    """With four trials pending, at the start, in the middle and at the end."""
    searched = problem(MODELS[:2], trials=40)
    log = campaign(searched, 38, late=3)
    asks = [[a.number, a.point.tolist(), a.own, dict(a.note)] for a in log.asks()]
    program = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import numpy as np
from tests.search.memory_log import MemoryLog
from tests.search.test_nested_map import MODELS, end, problem
from evomerge.interfaces import Asked
from evomerge.search.registry import make_sampler
searched, log, asked = problem(MODELS[:2], trials=40), MemoryLog(), []
for number, point, mine, note in json.load(sys.stdin):
    if number > 3:
        log.entries.append(end(searched, log.asks()[number - 4]))
    if mine:
        asked.append(make_sampler("nested_map", searched, dict()).ask(log, number).point.tolist())
    log.entries.append(Asked(number, np.array(point), mine, note))
print(json.dumps(asked))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(asks), capture_output=True, text=True
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == [asked.point.tolist() for asked in own(log)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tasks": ["a", "b"]}, "one model for each; there are 4 goals"),
        ({"tasks": ["a", "b", "c", "e"]}, "the models are ['a', 'b', 'c', 'd']"),
        ({"preferences": [1, 2]}, "one number for each goal"),
        ({"preferences": [1, 1, 1, 0]}, "each is a number above 0"),
        ({"preference": [1, 1, 1, 1]}, "did you mean 'preferences'?"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_sampler("nested_map", problem(), options)
    assert says in str(caught.value)
