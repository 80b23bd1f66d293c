"""The mirror: an Optuna study that shows what ours holds, and can be made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from evomerge.errors import StudyError
from evomerge.study.control import next_control
from evomerge.study.mirror import mirror
from evomerge.study.study import Study
from evomerge.trial import Outcome


def loaded(url: str) -> optuna.Study:
    return optuna.load_study(study_name="demo", storage=url)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mirror.db"


def test_ended_trials_are_mirrored_once(campaign_file: Path, url: str) -> None:
    with Study.open(campaign_file) as study:
        study.ask(6)
        study.tell(0, {"a": 0.5, "b": 0.25})
        study.end(study.begin(4, "search", "w"), Outcome.FAILED, reason="why")
        assert mirror(study, url) == 2
        assert mirror(study, url) == 0
        study.tell(5, {"a": [0, 0, 0, 1, 1, 1], "b": 0.5})
        with Study.read(campaign_file) as reader:
            assert mirror(reader, url) == 1
        expected = study.trial(5).candidate.parameters
    base, failed, told = loaded(url).trials
    assert loaded(url).metric_names == ["a", "b"]
    assert [direction.name for direction in loaded(url).directions] == ["MAXIMIZE", "MINIMIZE"]
    assert base.values == [0.5, 0.25]
    assert failed.state.name == "FAIL"
    assert failed.user_attrs["reason"] == "failed: why"
    assert told.values == [0.5, 0.5]
    assert told.params == pytest.approx(expected)
    assert told.user_attrs["a on search items, standard error"] == pytest.approx(0.3**0.5 / 6**0.5)
    assert [t.user_attrs["evomerge trial"] for t in (base, failed, told)] == [0, 4, 5]


def test_a_trial_outside_the_space_comes_without_parameters(
    write_campaign: Callable[..., Path], url: str
) -> None:
    narrow = ("{math: math,", "{math: {path: math, weight: {range: [0.1, 0.2]}},")
    with Study.open(write_campaign(narrow)) as study:
        study.ask()
        study.tell(0, {"a": 0.5, "b": 0.25})
        mirror(study, url)
    (base,) = loaded(url).trials
    assert (base.values, base.params) == ([0.5, 0.25], {})


def test_a_control_is_not_mirrored(campaign_file: Path, url: str) -> None:
    with Study.open(campaign_file) as study:
        for _ in range(5):
            study.tell(study.ask()[0], {"a": 0.5, "b": 0.25})
        control = next_control(study)
        assert control is not None
        study.tell(control, {"a": 0.9, "b": 0.1})
        assert mirror(study, url) == 5
    assert {t.user_attrs["evomerge trial"] for t in loaded(url).best_trials} == set(range(5))


def test_another_study_of_the_same_name_is_not_mixed_in(
    make_campaign: Callable[..., Path], tmp_path: Path, url: str
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with Study.open(make_campaign(tmp_path / "one")) as study:
        mirror(study, url)
    with (
        Study.open(make_campaign(tmp_path / "two")) as study,
        pytest.raises(StudyError, match="holds another study"),
    ):
        mirror(study, url)


def test_a_storage_that_cannot_be_used_keeps_its_password(campaign_file: Path) -> None:
    with Study.open(campaign_file) as study, pytest.raises(StudyError) as caught:
        mirror(study, "nosuchdriver://me:hunter2@localhost/x")
    assert "me:***@localhost" in str(caught.value)
    assert "hunter2" not in str(caught.value)
