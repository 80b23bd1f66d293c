"""Forks: the old trials come along where they still mean the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.errors import StudyMismatchError
from evomerge.study.study import Study
from evomerge.trial import Candidate, Outcome, TrialState

Write = Callable[..., Path]
SAMPLER = ("sampler: random", "sampler: sobol")


@pytest.fixture
def old(write_campaign: Write) -> Study:
    """A closed study of eight trials: 0 to 5 done, 6 failed, 7 waiting."""
    with Study.open(write_campaign()) as study:
        study.ask(8)
        for number in range(6):
            study.tell(number, {"a": number / 10, "b": 0.5})
        study.tell(5, {"a": 0.25, "b": 1.0}, split="test")
        study.end(study.begin(6, "search", "w"), Outcome.FAILED, reason="why")
    return study


def test_a_fork_brings_ended_trials_along(old: Study, write_campaign: Write) -> None:
    with Study.open(write_campaign(SAMPLER), fork=True) as fork:
        assert fork.folder == old.folder.with_name("demo.fork-1.evomerge")
        assert fork.charter.forked_from == str(old.folder.resolve())
        assert [trial.values() for trial in fork.trials()] == [
            *({"a": number / 10, "b": 0.5} for number in range(6)),
            None,
        ]
        assert fork.trial(5).values("test") == {"a": 0.25, "b": 1.0}
        assert fork.scores(5, "test", "a").items == (0.25,)
        assert fork.trial(6).state is TrialState.FAILED
        assert fork.trial(4).candidate.origin == "random, trial 4 of the fork's source"


def test_carried_trials_are_observations_and_cost_nothing(
    old: Study, write_campaign: Write
) -> None:
    with Study.open(write_campaign(SAMPLER), fork=True) as fork:
        assert fork.spend().trials == 4  # the references
        assert fork.reference_point is not None
        following = fork.ask_next()
        assert following is not None
        assert (following.number, following.origin) == (7, "sobol")
        assert [trial.visible_from for trial in fork.trials()] == [7] * 5 + [None] * 3
        numbers = []
        candidate: Candidate | None = following
        while candidate is not None:
            numbers.append(candidate.number)
            fork.tell(candidate, {"a": 0.5, "b": 0.5})
            candidate = fork.ask_next()
        assert numbers == list(range(7, 7 + 12 - 4))


def test_the_old_study_stays_as_it_was(old: Study, write_campaign: Write) -> None:
    before = [(event.kind, event.trial) for event in Study.read(old.folder).events()]
    with Study.open(write_campaign(SAMPLER), fork=True):
        pass
    with Study.read(old.folder) as study:
        assert [(event.kind, event.trial) for event in study.events()] == before
    with Study.open(write_campaign()) as study:
        assert study.folder == old.folder


def test_later_commands_find_the_fork(old: Study, write_campaign: Write) -> None:
    edited = write_campaign(SAMPLER)
    with Study.open(edited, fork=True) as fork:
        pass
    with Study.open(edited) as again:
        assert again.folder == fork.folder
    with Study.open(edited, fork=True) as again:
        assert again.folder == fork.folder
    with Study.read(edited) as reader:
        assert reader.folder == fork.folder
    other = write_campaign(SAMPLER, ("lookahead: 2", "lookahead: 1"))
    with pytest.raises(StudyMismatchError):
        Study.open(other)
    with Study.open(other, fork=True) as second:
        assert second.folder.name == "demo.fork-2.evomerge"


def test_an_unfinished_fork_is_made_again(old: Study, write_campaign: Write) -> None:
    torn = old.folder.with_name("demo.fork-1.evomerge")
    torn.mkdir()
    (torn / "study.db").touch()
    (torn / "lock").touch()
    with Study.open(write_campaign(SAMPLER), fork=True) as fork:
        assert fork.folder == torn
        assert len(fork.trials()) == 7


def test_a_fork_without_need_is_the_study_itself(old: Study, write_campaign: Write) -> None:
    with Study.open(write_campaign(), fork=True) as study:
        assert study.folder == old.folder


def test_trials_outside_the_new_space_stay_behind(old: Study, write_campaign: Write) -> None:
    narrow = ("models: {math: math,", "models: {math: {path: math, weight: {range: [0, 0.01]}},")
    with Study.open(write_campaign(narrow), fork=True) as fork:
        origins = [trial.candidate.origin for trial in fork.trials()]
        assert origins[:4] == ["base", "parent math", "parent code", "uniform"]
        for trial in fork.trials():
            assert trial.number < 4 or trial.candidate.parameters["math/0/weight"] <= 0.01
        assert fork.trial(1).candidate.point is None  # a parent that the space cannot hold
        assert fork.trial(1).values() == {"a": 0.1, "b": 0.5}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (('score.py:a"', 'score.py:b"'), "the objective of a differs"),
        (("metric: a", "metric: c"), "the old study has not measured c"),
        (("{search: 60%, selection: 20%, test: 20%}", "{search: 80%, selection: 10%, test: 10%}"),
         "items differs"),
        (("layers: all", "layers: each"), "groups differs"),
    ],
)  # fmt: skip
def test_values_that_would_mean_something_else_stay_behind(
    old: Study, write_campaign: Write, caplog: pytest.LogCaptureFixture,
    edit: tuple[str, str], reason: str,
) -> None:  # fmt: skip
    with Study.open(write_campaign(edit), fork=True) as fork:
        assert {trial.state for trial in fork.trials()} == {TrialState.PENDING}
        assert len(fork.trials()) == 4
    assert f"no trial was carried over: {reason}" in caplog.text
