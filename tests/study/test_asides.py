"""Asides are measured beside the search: later asks are those that would have been."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.study.asides import load_asides, number_at, place_of
from evomerge.study.study import Study
from evomerge.trial import TrialState


def value(study: Study, number: int) -> float:
    """A smooth score of a trial's parameters."""
    parameters = study.trial(number).candidate.parameters
    return -sum((x - 0.3) ** 2 for x in parameters.values())


def drive(study: Study, limit: int) -> None:
    """The loop in one process: the window is kept full, the oldest pending trial ends first."""
    study.limit = limit
    while True:
        while study.ask_next() is not None:
            pass
        pending = study.trials(state=TrialState.PENDING)
        if not pending:
            return
        first = pending[0].number
        score = value(study, first)
        study.tell(first, {"a": [score] * 6, "b": [score * score] * 6})


@given(st.sets(st.integers(0, 20)), st.integers(0, 20))
def test_places_count_without_asides(asides: set[int], place: int) -> None:
    known = sorted(asides)
    number = number_at(place, known)
    assert number not in asides
    assert place_of(number, known) == place


def test_before_the_first_trial_of_the_search_lies_nothing() -> None:
    assert number_at(-1, [0, 3]) == -1
    assert [place_of(number, [2]) for number in (0, 1, 2, 3)] == [0, 1, 2, 2]


def asked(study: Study, asides: Sequence[int] = ()) -> list[tuple[object, ...]]:
    return [
        (t.candidate.origin, tuple(t.candidate.parameters.values()), t.state)
        for t in study.trials()
        if t.number not in asides
    ]


@pytest.mark.parametrize("sampler", ["margin", "nsga2"])
def test_later_asks_are_those_without_asides(
    make_campaign: Callable[..., Path], tmp_path: Path, sampler: str
) -> None:
    logs = []
    found = []
    for name in ("without", "beside"):
        (tmp_path / name).mkdir()
        path = make_campaign(tmp_path / name, ("sampler: random", f"sampler: {sampler}"))
        with Study.open(path) as study:
            drive(study, 9)
            if name == "beside":
                added = study.add_aside("prefer a=1", dict(study.trial(5).candidate.parameters))
                assert added.number == 9 and study.spend().trials == 9
                study.tell(9, {"a": [1.0] * 6, "b": [0.0] * 6})
            drive(study, 11)
            if name == "beside":
                study.add_aside("prefer b=1", dict(study.trial(6).candidate.parameters))
            drive(study, 12)  # it waits among the others, and is told after them
        with Study.open(path) as study:  # a process of its own, which knows the database alone
            drive(study, 14)
            asides = load_asides(study._database)
            assert asides == ([9, 12] if name == "beside" else [])
            found.append(asked(study, asides))
            logs.append(list(study.told().events()))
            assert study.spend().trials == 14
    assert found[0] == found[1]
    assert [event.number for event in logs[0]] == [event.number for event in logs[1]]
    for one, other in zip(*logs, strict=True):
        assert type(one) is type(other) and np.array_equal(one.point, other.point)
