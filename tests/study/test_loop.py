"""Whole runs of a small campaign: their order, their ends, and what a resume finds."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from evomerge.errors import DiskFullError, ObjectiveError
from evomerge.study.events import AttemptBegan, AttemptEnded, Event, PhaseBegan, Stopping
from evomerge.study.loop import Ending, RunResult, run
from evomerge.study.study import Study
from evomerge.trial import Outcome, Trial, TrialState

OBJECTIVE = """
import os, signal, time
from pathlib import Path

HERE = Path(__file__).parent

def score(parameters, items):
    total = sum(value for name, value in parameters.items() if name.endswith("weight"))
    for rule in sorted(HERE.glob("rule-*.py")):
        exec(rule.read_text())
    return [total + item for item in items] if items is not None else total

def plain(parameters):
    return score(parameters, None)

score.needs = plain.needs = "coefficients"
"""
CAMPAIGN = """
base: base
models: {math: math, code: code}
merge: {method: sparse_signed, groups: {layers: 2}}
goals:
  - {metric: a, objective: {type: python, function: "score.py:score", items: 10}}
  - metric: b
    direction: minimize
    objective: {type: python, function: "score.py:score", items: 10}
sampler: random
budget: {trials: 10}
study: study
"""
Rule = Callable[[str, str], None]


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    for name in ("base", "math", "code"):
        (tmp_path / name).mkdir()
        tensors = {f"model.layers.{i}.w": np.full((2, 2), len(name) + i, "f4") for i in range(2)}
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "score.py").write_text(OBJECTIVE)
    path = tmp_path / "campaign.yaml"
    path.write_text(CAMPAIGN)
    return path


@pytest.fixture
def rule(campaign: Path) -> Rule:
    """Code for the objective to run at its start; of no effect on the campaign's identity."""

    def write(name: str, code: str) -> None:
        (campaign.parent / f"rule-{name}.py").write_text(code)

    return write


def edit(campaign: Path, old: str, new: str) -> None:
    text = campaign.read_text()
    assert old in text
    campaign.write_text(text.replace(old, new))


def ran(campaign: Path, **options: Any) -> tuple[RunResult, list[Trial]]:
    with Study.open(campaign) as study:
        result = run(study, **options)
        return result, study.trials()


def essence(trials: list[Trial]) -> list[Any]:
    return [
        (dict(t.candidate.parameters), t.state, t.visible_from, t.reason, t.results) for t in trials
    ]


def raising(number: signal.Signals, at: int) -> Callable[[Event], None]:
    """Sends ourselves a signal when an attempt begins."""
    begun = 0

    def on_event(event: Event) -> None:
        nonlocal begun
        if isinstance(event, AttemptBegan):
            begun += 1
            if begun == at:
                signal.raise_signal(number)

    return on_event


def test_a_campaign_runs_to_its_end_and_confirms_its_front(campaign: Path) -> None:
    events: list[Event] = []
    result, trials = ran(campaign, on_event=events.append)
    assert result == RunResult(Ending.FINISHED, "", True, {})
    assert [t.candidate.origin for t in trials[:4]] == [
        "base", "parent math", "parent code", "uniform",
    ]  # fmt: skip
    assert len(trials) == 10
    assert {t.state for t in trials} == {TrialState.DONE}
    assert [(e.phase, e.attempts) for e in events if isinstance(e, PhaseBegan)] == [
        ("search", 10), ("confirmation", len([t for t in trials if "test" in t.results])),
    ]  # fmt: skip
    with Study.read(campaign) as study:
        confirmed = {t.number for t in trials if "test" in t.results}
        assert confirmed == {0, 1, 2, 3} | {t.number for t in study.front()}
        assert study.spend().wall_seconds > 0
        assert study.trial(0).results["selection"]["a"].items == 2
    assert not (campaign.parent / "study" / "scratch").exists()


def test_a_goal_of_an_equal_objective_is_measured_by_the_same_call(
    campaign: Path, rule: Rule
) -> None:
    rule("count", "print('called', file=open(HERE / 'calls', 'a'))")
    _, trials = ran(campaign)
    held_out = sum("test" in t.results for t in trials)
    calls = (campaign.parent / "calls").read_text().count("called")
    assert calls == 10 + 2 * held_out


def test_workers_change_nothing_of_what_is_asked_and_measured(campaign: Path) -> None:
    _, alone = ran(campaign, workers=1)
    shutil.rmtree(campaign.parent / "study")
    _, together = ran(campaign, workers=3)
    assert essence(together) == essence(alone)


def test_workers_run_races_and_a_control(campaign: Path) -> None:
    edit(campaign, "sampler: random", "sampler: random\nracing: {first: 20%}")
    campaign.write_text(campaign.read_text().replace("items: 10", "items: 40"))
    told: list[Event] = []
    result, trials = ran(campaign, workers=2, trials=12, control=True, on_event=told.append)
    assert result.ending is Ending.FINISHED
    controls = [trial for trial in trials if trial.candidate.origin == "control"]
    assert len(controls) == sum(trial.candidate.origin == "random" for trial in trials) == 8
    assert all(trial.state is TrialState.DONE and trial.chance is None for trial in controls)
    ends = [event for event in told if isinstance(event, AttemptEnded)]
    assert any(event.trial.state is TrialState.PENDING for event in ends)  # a race that goes on


def test_a_control_that_fails_does_not_end_the_run(campaign: Path, rule: Rule) -> None:
    ran(campaign)
    rule("fail", "if len(items) > 2: raise ValueError('no')")
    result, trials = ran(campaign, control=True)
    assert result.ending is Ending.FINISHED
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    assert [trial.candidate.origin for trial in failed] == ["control"] * 6


def test_running_again_repeats_nothing(campaign: Path) -> None:
    _, first = ran(campaign)
    begun: list[Event] = []
    result, second = ran(campaign, on_event=begun.append)
    assert result.ending is Ending.FINISHED
    assert essence(second) == essence(first)
    assert not [e for e in begun if isinstance(e, AttemptBegan)]


def test_a_larger_budget_goes_on(campaign: Path) -> None:
    _, first = ran(campaign)
    _, second = ran(campaign, trials=12)
    assert len(second) == 12
    assert [dict(t.candidate.parameters) for t in second[:10]] == [
        dict(t.candidate.parameters) for t in first
    ]


def test_a_trial_that_fails_is_kept_with_its_reason(campaign: Path, rule: Rule) -> None:
    rule("fail", "if 0.1 < total < 0.9: raise ValueError('in between')")
    _, trials = ran(campaign)
    failed = [t for t in trials if t.state is TrialState.FAILED]
    assert failed
    assert {t.reason for t in failed} == {"failed: ValueError: in between"}
    assert len(trials) == 10


def test_a_candidate_that_kills_three_workers_is_quarantined(campaign: Path, rule: Rule) -> None:
    rule("kill", "if total == 0.0: os.kill(os.getpid(), signal.SIGKILL)")  # the base
    with Study.open(campaign) as study:
        run(study)
        (killer,) = [t for t in study.trials() if t.state is TrialState.FAILED]
        assert killer.candidate.origin == "base"
        assert [a.outcome for a in study.attempts(killer.number)] == [Outcome.CRASHED] * 3
        assert (killer.reason or "").startswith("killed 3 workers")


def test_an_evaluation_that_hangs_is_ended(campaign: Path, rule: Rule) -> None:
    campaign.write_text(campaign.read_text() + "timeout: 2\n")
    rule("hang", "if total == 0.0: time.sleep(600)")  # the base
    _, trials = ran(campaign, trials=6)
    assert trials[0].state is TrialState.FAILED
    assert trials[0].reason == "timed out: took longer than its limit of 2 s"


def test_the_failure_budget_stops_a_run_and_a_repaired_objective_goes_on(
    campaign: Path, rule: Rule
) -> None:
    rule("fail", "raise ValueError('broken')")
    with pytest.raises(ObjectiveError, match=r"first 5 trials .* 5 × failed: ValueError: broken"):
        ran(campaign)
    rule("fail", "")
    result, trials = ran(campaign)
    assert result.ending is Ending.FINISHED
    assert Counter(t.state for t in trials) == {TrialState.FAILED: 5, TrialState.DONE: 5}


def test_the_first_interrupt_lets_what_runs_finish(campaign: Path, rule: Rule) -> None:
    rule("slow", "time.sleep(0.05)")
    events: list[Event] = []
    stop = raising(signal.SIGINT, at=3)
    with Study.open(campaign) as study:
        result = run(study, workers=2, on_event=lambda e: (events.append(e), stop(e))[0])
        assert result.ending is Ending.STOPPED
        assert result.why == "SIGINT"
        assert {a.outcome for a in study.attempts()} == {Outcome.SUCCEEDED}
    (stopping,) = [e for e in events if isinstance(e, Stopping)]
    assert stopping.grace == 30.0
    result, trials = ran(campaign)
    assert result.ending is Ending.FINISHED
    assert len(trials) == 10


def test_what_does_not_finish_within_its_grace_is_handed_back(campaign: Path, rule: Rule) -> None:
    rule("slow", "time.sleep(60)")
    with Study.open(campaign) as study:
        result = run(study, on_event=raising(signal.SIGINT, at=1), grace=0.5)
        assert result.ending is Ending.STOPPED
        (attempt,) = study.attempts()
        assert (attempt.outcome, attempt.reason) == (Outcome.LOST, "handed back")
        assert study.trial(0).state is TrialState.PENDING


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_scheduler_gets_everything_back_at_once(
    number: signal.Signals, campaign: Path, rule: Rule
) -> None:
    rule("slow", "time.sleep(60)")
    before = signal.signal(number, signal.SIG_DFL)  # under nohup, SIGHUP would be ignored
    try:
        with Study.open(campaign) as study:
            result = run(study, workers=2, on_event=raising(number, at=2))
            assert (result.ending, result.why) == (Ending.STOPPED, number.name)
            assert [a.outcome for a in study.attempts()] == [Outcome.LOST] * 2
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so(campaign: Path) -> None:
    """`nohup evomerge run` goes on when its terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Study.open(campaign) as study:
            result = run(study, on_event=raising(signal.SIGHUP, at=1))
            assert result.ending is Ending.FINISHED
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_interrupt_ends_at_once(campaign: Path, rule: Rule) -> None:
    def twice(event: Event) -> None:
        if isinstance(event, AttemptBegan | Stopping):
            signal.raise_signal(signal.SIGINT)

    rule("slow", "time.sleep(60)")
    with Study.open(campaign) as study:
        result = run(study, on_event=twice)
        assert result.ending is Ending.FORCED
    rule("slow", "")
    assert ran(campaign)[0].ending is Ending.FINISHED


def test_interruptions_change_nothing_of_the_outcome(campaign: Path) -> None:
    _, undisturbed = ran(campaign)
    shutil.rmtree(campaign.parent / "study")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        ran(campaign, workers=2, on_event=raising(number, at=2))
    _, disturbed = ran(campaign)
    assert essence(disturbed) == essence(undisturbed)


def test_the_budget_of_hours_ends_the_search_and_the_front_is_confirmed(campaign: Path) -> None:
    edit(campaign, "{trials: 10}", "{hours: 0.0003}")  # about a second
    result, trials = ran(campaign)
    assert result.ending is Ending.OUT_OF_TIME
    assert all("test" in t.results for t in trials if t.candidate.origin == "base")
    again, same = ran(campaign)
    assert again.ending is Ending.OUT_OF_TIME
    assert len(same) == len(trials), "hours are counted across resumes"


def test_goals_without_items_have_nothing_to_confirm(campaign: Path) -> None:
    edit(campaign, '"score.py:score", items: 10', '"score.py:plain"')
    result, trials = ran(campaign)
    assert result.ending is Ending.FINISHED
    assert {split for t in trials for split in t.results} == {"search"}


def test_what_cannot_be_confirmed_is_said(campaign: Path, rule: Rule) -> None:
    rule("fail", "if len(items) == 2 and total == 0.0: raise ValueError('not here')")  # the base
    result, trials = ran(campaign)
    assert result.ending is Ending.FINISHED
    assert result.unconfirmed == {0: "ValueError: not here"}
    assert trials[0].state is TrialState.DONE


def test_a_run_where_nothing_meets_the_limits_says_so(campaign: Path) -> None:
    edit(campaign, "direction: minimize", "direction: minimize\n    limit: -100")
    assert ran(campaign)[0].feasible is False


def test_an_answer_that_could_not_be_stored_is_told_at_the_next_start(
    campaign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise DiskFullError("no space")

    events: list[Event] = []
    with monkeypatch.context() as patch, Study.open(campaign) as study:
        patch.setattr(study, "end", full)
        with pytest.raises(DiskFullError):
            run(study)
    result, _ = ran(campaign, on_event=events.append)
    assert result.ending is Ending.FINISHED
    first = next(e for e in events if isinstance(e, AttemptEnded))
    assert first.trial.number == 1, "trial 0 was told from its result file"


def test_a_study_may_be_named_by_a_relative_path(
    campaign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(campaign, trials=5)
    monkeypatch.chdir(campaign.parent)
    result, trials = ran(Path("study"), trials=6)
    assert (result.ending, len(trials)) == (Ending.FINISHED, 6)
