"""The control: a random search beside the campaign, seen by no sampler and on no front."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.report.summary import content_of
from evomerge.study import confirmation
from evomerge.study.control import compare, control_front, is_control, next_control
from evomerge.study.schema import RACES, READABLE_BY
from evomerge.study.study import Study
from evomerge.trial import Outcome, Scores, Split


@pytest.fixture
def campaign(write_campaign: Callable[..., Path]) -> Path:
    """Both goals want weights of 0.8."""
    return write_campaign(
        ("items: 10", "items: 40"),
        ("sampler: random", "sampler: nsga2"),
        ("{trials: 12}", "{trials: 24}"),
    )


def scores(study: Study, number: int, split: Split, best: float = 0.8) -> dict[str, Scores]:
    """Goal a is at its best where all weights are 0.8, b where they are `best`."""
    parameters = study.trial(number).candidate.parameters
    weights = [value for name, value in parameters.items() if name.endswith("weight")]
    found = {}
    for metric, sign, wanted in (("a", -1.0, 0.8), ("b", 1.0, best)):
        miss = sum((weight - wanted) ** 2 for weight in weights)
        items = study.items(metric, split) or ()
        found[metric] = Scores([sign * miss * (1 + 0.2 * (item % 3)) for item in items])
    return found


def search(study: Study) -> None:
    while (candidate := study.ask_next()) is not None:
        study.tell(candidate, scores(study, candidate.number, "search"))


def control(study: Study) -> None:
    while (candidate := next_control(study)) is not None:
        study.tell(candidate, scores(study, candidate.number, "search"))


def essence(study: Study) -> list[Any]:
    found = [t for t in study.trials() if not is_control(t)]
    return [(t.candidate.origin, t.candidate.parameters) for t in found]


def test_a_control_changes_nothing_of_the_search(campaign: Path) -> None:
    with Study.open(campaign) as study:
        search(study)
        front, volume = study.front(), study.hypervolume()
        control(study)
        controls = [trial for trial in study.trials() if is_control(trial)]
        assert len(controls) == 24 - study.charter.references
        assert study.front() == front
        assert study.hypervolume() == volume
        assert study.spend().trials == 24
        study.limit = 30
        search(study)
        longer = essence(study)
    (campaign.parent / "runs").rename(campaign.parent / "before")
    with Study.open(campaign) as study:
        study.limit = 30
        search(study)
        assert essence(study) == longer


def test_readers_that_know_no_controls_are_turned_away(campaign: Path) -> None:
    with Study.open(campaign) as study:
        search(study)
        sql = "SELECT readable_by FROM study"
        assert study._database.row(sql) == (READABLE_BY,)
        next_control(study)
        assert study._database.row(sql) == (RACES,)


def test_a_mean_told_by_hand_leaves_no_interval(campaign: Path) -> None:
    with Study.open(campaign) as study:
        search(study)
        control(study)
        best = study.ask()[0]
        study.tell(best, {"a": 1.0, "b": -1.0})
        found = compare(study)
        assert found is not None and found.search > found.control
        assert (found.low, found.high) == (None, None)


def test_a_broken_off_control_goes_on_with_the_same_merges(campaign: Path) -> None:
    with Study.open(campaign) as study:
        search(study)
        waiting = next_control(study)
        assert next_control(study) == waiting
    with Study.open(campaign) as study:
        assert next_control(study) == waiting
        control(study)
        first = [t.candidate.parameters for t in study.trials() if is_control(t)]
    assert len({tuple(parameters.values()) for parameters in first}) == len(first)


def test_search_and_control_are_compared_on_items_that_chose_neither(campaign: Path) -> None:
    with Study.open(campaign) as study:
        assert compare(study) is None
        search(study)
        control(study)
        early = compare(study)
        assert early is not None and early.split == "search"
        for trial, splits in confirmation.unmeasured(study):
            for split in splits:
                study.tell(trial.number, scores(study, trial.number, split), split=split)
        found = compare(study)
        assert found is not None and found.split == "test"
        assert found.low is not None and found.high is not None
        assert found.low <= found.search - found.control <= found.high
        table = np.array(
            [list((t.values("test") or {}).values()) for t in study.front("selection")]
        )
        reference = study.reference_point
        assert reference is not None
        best = np.array([-table[:, 0].max(), table[:, 1].min()])  # both want the same merge
        assert found.search == pytest.approx(float(np.prod(reference - best)))
        assert {t.number for t in control_front(study, "selection")}
        facts, count = dict(content_of(study).facts), study.spend().trials
        assert facts["control"] == str(found)
        assert facts["trials"] == f"{count} measured of {count}"


def test_a_control_confirmed_in_part_is_compared_on_the_search_items(campaign: Path) -> None:
    with Study.open(campaign) as study:
        for ask in (study.ask_next, lambda: next_control(study)):
            while (candidate := ask()) is not None:
                study.tell(candidate, scores(study, candidate.number, "search", best=0.2))
        *first, last = [trial.number for trial, _ in confirmation.unmeasured(study)]
        assert is_control(study.trial(first[-1])) and is_control(study.trial(last))
        for number in first:
            for split in confirmation.SPLITS:
                study.tell(number, scores(study, number, split, best=0.2), split=split)
        partly = compare(study)
        assert partly is not None and partly.split == "search"
        attempt = study.begin(last, confirmation.SPLITS, "me")
        study.end(attempt, Outcome.FAILED, reason="no")
        wholly = compare(study)
        assert wholly is not None and wholly.split == "test"
