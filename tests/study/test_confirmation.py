"""Who is measured on the held-out items."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evomerge.goals import Goal
from evomerge.interfaces import Asked
from evomerge.study import foresight
from evomerge.study.confirmation import nominees, promising
from evomerge.study.fronts import MOST
from evomerge.study.log import StudyLog
from evomerge.trial import Candidate, Measured, Trial, TrialState

GOALS = (Goal("a"), Goal("b"))
REFERENCE = np.array([0.0, 0.0])  # losses: everything positive counts


def trial(number: int, origin: str, a: float, b: float) -> Trial:
    results = {"a": Measured(a, None, 1), "b": Measured(b, None, 1)}
    return Trial(Candidate(number, origin, "m", {}), TrialState.DONE, results={"search": results})


def test_the_front_and_the_references_are_nominated() -> None:
    trials = [
        trial(0, "base", 0.1, 0.1),
        trial(1, "parent math", 0.9, 0.1),
        trial(2, "uniform", 0.4, 0.4),
        trial(3, "warm start 0", 0.2, 0.2),
        trial(4, "sobol", 0.5, 0.5),
    ]
    front = [trials[1], trials[4]]
    chosen = nominees(GOALS, trials, front, REFERENCE)
    assert [t.number for t in chosen] == [0, 1, 2, 4]


def test_references_that_failed_are_not() -> None:
    failed = Trial(Candidate(0, "base", "m", {}), TrialState.FAILED, reason="no")
    assert nominees(GOALS, [failed], [], None) == []


def test_of_a_large_front_the_largest_contributions_are_taken() -> None:
    # on the line a + b = 1, evenly but for the last two, which leave each other little room
    spots = [i / 20 for i in range(1, MOST + 1)] + [0.9, 0.9001]
    front = [trial(i, "sobol", a, 1 - a) for i, a in enumerate(spots)]
    chosen = [t.number for t in nominees(GOALS, front, front, REFERENCE)]
    assert len(chosen) == MOST
    assert not {MOST, MOST + 1} <= set(chosen)


def test_without_a_reference_point_the_first_are_taken() -> None:
    front = [trial(i, "sobol", i, -i) for i in range(MOST + 3)]
    chosen = nominees(GOALS, front, front, None)
    assert [t.number for t in chosen] == list(range(MOST))


@pytest.mark.parametrize(("believed", "added"), [(0, []), (1, [1]), (2, [])])
def test_with_one_goal_what_the_surrogate_believes_best_is_confirmed_too(
    monkeypatch: pytest.MonkeyPatch, believed: int, added: list[int]
) -> None:
    """Of the base, a trial, and the best trial by its value; the base and that are nominated."""
    found = [trial(0, "base", 0.1, 0), trial(1, "sobol", 0.5, 0), trial(2, "sobol", 0.6, 0)]
    trials = [replace(t, candidate=replace(t.candidate, point=np.zeros(1))) for t in found]
    losses = np.where(np.arange(3) == believed, -1.0, 0.0)[:, None]
    monkeypatch.setattr(
        foresight, "foresee", lambda _: SimpleNamespace(losses=lambda known: losses)
    )
    study: Any = SimpleNamespace(goals=GOALS[:1], front=lambda: [trials[2]], reference_point=None)
    study.told = lambda: StudyLog([Asked(1, np.zeros(1), True, {"foretold": []})])
    assert [t.number for t in promising(study, trials)] == added
    study.goals = GOALS  # with several, only those that were stopped in a race
    assert promising(study, trials) == []
    study.goals = GOALS[:1]
    study.told = lambda: StudyLog([Asked(1, np.zeros(1), True, {})])  # no surrogate searched
    assert promising(study, trials) == []


def test_a_fit_that_fails_stops_no_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise np.linalg.LinAlgError("singular")

    monkeypatch.setattr(foresight, "foresee", fails)
    study: Any = SimpleNamespace(goals=GOALS[:1])
    study.told = lambda: StudyLog([Asked(1, np.zeros(1), True, {"foretold": []})])
    assert promising(study, [trial(0, "base", 0.1, 0)]) == []
