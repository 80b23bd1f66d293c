"""Races: trials measured stage by stage, and stopped when they cannot enter the front."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evomerge.errors import CampaignError, StudyError
from evomerge.interfaces import Observation
from evomerge.report.summary import economy, share_of_items
from evomerge.space import Array
from evomerge.study import foresight
from evomerge.study.confirmation import promising, unmeasured
from evomerge.study.races import Races, Verdict
from evomerge.study.records import Attempt
from evomerge.study.recovery import salvage
from evomerge.study.study import Study
from evomerge.study.verify import verify
from evomerge.study.workers.messages import Answer, encode
from evomerge.trial import Evaluation, Outcome, Scores, Trial, TrialState

RACING = (
    ("items: 10", "items: 60"),
    ("{search: 60%, selection: 20%, test: 20%}", "{search: 100%, selection: 0%, test: 0%}"),
    ("sampler: random", "sampler: random\nracing: {first: 12%, error: 20%}"),
    ("{trials: 12}", "{trials: 24}"),
)


@pytest.fixture
def campaign(write_campaign: Callable[..., Path]) -> Path:
    return write_campaign(*RACING)


def quality(trial: Trial) -> float:
    parameters = trial.candidate.parameters
    weights = [value for name, value in parameters.items() if name.endswith("weight")]
    return 50.0 - 40.0 * sum((weight - 0.9) ** 2 for weight in weights)


def answers(study: Study, attempt: Attempt) -> dict[Any, Evaluation]:
    """Item i goes well where the merge is good enough for it; both goals want the same merge."""
    scores = {}
    for metric, items in study.items_of(attempt)["search"].items():
        assert items is not None
        sign = 1.0 if metric == "a" else -1.0
        margins = [sign * (quality(study.trial(attempt.trial)) - item) for item in items]
        scores[metric] = Scores([float(margin > 0) for margin in margins], margins)
    return {"search": Evaluation(scores)}


def drive(study: Study, *, last_first: bool = False, stages: int | None = None) -> None:
    """The loop in one process; attempts end in the order of their beginnings, or the reverse."""
    while stages is None or stages > 0:
        running = []
        while (candidate := study.ask_next()) is not None:
            running.append(study.begin(candidate.number, "search", "me"))
        if not running:
            return
        for attempt in reversed(running) if last_first else running:
            study.end(attempt, Outcome.SUCCEEDED, evaluations=answers(study, attempt))
        stages = None if stages is None else stages - 1


def essence(study: Study) -> list[Any]:
    return [
        (t.candidate.parameters, t.state, t.visible_from, t.results, t.chance)
        for t in study.trials()
    ]


def stopped(study: Study) -> list[Trial]:
    return [trial for trial in study.trials() if trial.chance is not None]


def test_a_race_spares_items_of_what_cannot_enter_the_front(campaign: Path) -> None:
    with Study.open(campaign) as study:
        drive(study)
        trials = study.trials()
        assert len(trials) == 24
        assert {trial.state for trial in trials} == {TrialState.DONE}
        losers = stopped(study)
        assert losers
        for trial in losers:
            measured = trial.results["search"]["a"]
            assert measured.items < 60
            assert 0 <= (trial.chance or 0) < 0.2
        assert not {t.number for t in losers} & {t.number for t in study.front()}
        whole = [t for t in trials if t.chance is None and t.candidate.origin == "random"]
        assert all(len(study.scores(t.number, "search", "a").items) == 60 for t in whole)
        saved = economy(study, trials)
        assert saved["stopped"] == len(losers)
        assert saved["items of full evaluation"] == 24 * 120
        spared = sum(2 * (60 - t.results["search"]["a"].items) for t in losers)
        assert saved["items"] == 24 * 120 - spared
        assert share_of_items(saved).startswith(f"{24 * 120 - spared} of 2880 (")
    assert [f.text for f in verify(campaign.parent / "runs/demo.evomerge")] == []


def test_the_estimate_of_a_stopped_trial_is_near_what_all_items_would_have_said(
    campaign: Path,
) -> None:
    with Study.open(campaign) as study:
        drive(study)
        errors = [
            trial.results["search"]["a"].mean
            - np.mean([quality(trial) > item for item in range(60)])
            for trial in stopped(study)
        ]
        assert np.mean(np.abs(errors)) < 0.1


@pytest.mark.parametrize("limit", ["", "limit: 0, "])
def test_stopped_trials_that_the_surrogate_sees_on_the_front_are_confirmed(
    write_campaign: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    bounded = ("{metric: a, ", "{metric: a, " + limit)
    with Study.open(write_campaign(RACING[0], *RACING[2:], bounded)) as study:
        drive(study)
        losers = [trial.number for trial in stopped(study)]
        assert {trial.number for trial in promising(study, study.trials())} <= set(losers)

        def foretold(trials: list[Trial]) -> Array:
            """The first loser has the best b by far, but misses a limit on a; others lose."""
            rows = {number: [0.0, 0.0] for number in losers} | {losers[0]: [5.0, -9.0]}
            return np.array([rows.get(trial.number, [-1.0, 0.0]) for trial in trials])

        monkeypatch.setattr(foresight, "foresee", lambda _: SimpleNamespace(losses=foretold))
        chosen = [trial.number for trial in promising(study, study.trials())]
        assert chosen == ([] if limit else losers[:1])
        assert set(chosen) <= {trial.number for trial, _ in unmeasured(study)}


def test_what_is_always_stopped_is_measured_whole_now_and_then(
    write_campaign: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is bad after twelve trials; 32 saw that 24 was measured whole."""
    path = write_campaign(*RACING[:-1], ("{trials: 12}", "{trials: 48}"))
    good = quality
    monkeypatch.setattr(
        sys.modules[__name__], "quality", lambda t: good(t) if t.candidate.number < 12 else -9.0
    )
    with Study.open(path) as study:
        drive(study)
        whole = [t.candidate.number for t in study.trials() if t.chance is None]
    assert [number for number in whole if number >= 16] == [24, 40]


def test_the_items_are_the_same_for_candidates_that_know_about_as_much(campaign: Path) -> None:
    with Study.open(campaign) as study:
        drive(study)
        asked = {}
        log = study.told()
        for event in log.events():
            if isinstance(event, Observation) and event.read_items is not None:
                losses = event.read_items()[0].losses
                asked[event.number] = tuple(np.flatnonzero(np.isfinite(losses)))
        parts = {items for items in asked.values() if len(items) < 60}
        assert 0 < len(parts) < len(stopped(study))


def test_neither_workers_nor_restarts_change_a_race(campaign: Path) -> None:
    with Study.open(campaign) as study:
        drive(study)
        undisturbed = essence(study)
    (campaign.parent / "runs").rename(campaign.parent / "before")
    for _ in range(8):
        with Study.open(campaign) as study:
            drive(study, last_first=True, stages=2)
            candidate = study.ask_next()
            if candidate is not None:
                study.begin(candidate.number, "search", "me")  # and its coordinator dies
    with Study.open(campaign) as study:
        drive(study, last_first=True)
        assert essence(study) == undisturbed


def test_nobody_waits_for_a_verdict_to_read_or_write(
    campaign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, locked = Races.verdict, []

    def watched(races: Races, *about: Any) -> Verdict | None:
        locked.append(races.database._connection.in_transaction)
        return judge(races, *about)

    monkeypatch.setattr(Races, "verdict", watched)
    with Study.open(campaign) as study:
        drive(study, stages=5)
    assert locked and not any(locked)


def test_a_stage_that_comes_late_counts_once(campaign: Path) -> None:
    with Study.open(campaign) as study:
        drive(study, stages=3)
        candidate = study.ask_next()
        assert candidate is not None
        late = study.begin(candidate.number, "search", "slow")
        assert late.stage == 0
        study.end(late, Outcome.LOST)
        assert study.ask_next() == candidate
        again = study.begin(candidate.number, "search", "quick")
        assert study.items_of(again) == study.items_of(late)
        study.end(late, Outcome.SUCCEEDED, evaluations=answers(study, late))
        after = study.trial(candidate.number)
        study.end(again, Outcome.FAILED, reason="too late to matter")
        assert study.trial(candidate.number) == after


def test_a_result_of_other_items_is_not_salvaged(campaign: Path) -> None:
    with Study.open(campaign) as study:
        drive(study, stages=3)
        candidate = study.ask_next()
        assert candidate is not None
        attempt = study.begin(candidate.number, "search", "me")
        found = answers(study, attempt)
        answer = Answer(attempt.id, attempt.token, attempt.trial, Outcome.SUCCEEDED, found)
        folder = study.attempt_folder(attempt)
        folder.mkdir(parents=True)
        (folder / "result.json").write_bytes(encode(answer))
        study.end(attempt, Outcome.LOST)
        database, where = study._database, "WHERE trial = ? AND stage = 0 AND metric = 'a'"
        places = (database.row(f"SELECT places FROM stages {where}", [attempt.trial]) or ())[0]
        others = (np.frombuffer(places, "<i4") ^ 1).tobytes()  # as many, each a neighbour
        for stored, told in ((others, False), (places, True)):
            database.execute(f"UPDATE stages SET places = ? {where}", [stored, attempt.trial])
            database.execute("INSERT INTO salvage VALUES (?, ?)", [attempt.id, attempt.trial])
            salvage(study._telling, study.folder, candidate)
            assert study._telling.races.is_measured(attempt.trial, 0) is told


def test_a_trial_that_was_stopped_is_never_told_otherwise(campaign: Path) -> None:
    with Study.open(campaign) as study:
        drive(study)
        with pytest.raises(StudyError, match="lost its race"):
            study.tell(stopped(study)[0].number, {"a": [1.0] * 60, "b": [0.0] * 60})


def test_a_goal_without_items_cannot_race(write_campaign: Callable[..., Path]) -> None:
    path = write_campaign((", items: 10}", "}"), *RACING[2:])
    with pytest.raises(CampaignError, match="racing measures candidates on a part of their items"):
        Study.open(path)
