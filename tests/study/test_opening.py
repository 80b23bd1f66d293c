"""Whose study it is: creation, resumption, safe edits, refused edits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from evomerge.errors import (
    StudyDamagedError,
    StudyError,
    StudyLockedError,
    StudyMismatchError,
    UsageError,
)
from evomerge.recipe.campaign import Campaign
from evomerge.study.backups import INTERVAL_SECONDS
from evomerge.study.differences import differences
from evomerge.study.folder import BACKUP, DATABASE, attempt_folder
from evomerge.study.schema import MIGRATIONS
from evomerge.study.study import Study
from evomerge.study.workers.messages import Answer, encode
from evomerge.trial import Evaluation, Outcome, Scores, TrialState


def test_the_study_is_made_at_the_first_opening_and_resumed_at_the_next(
    campaign_file: Path,
) -> None:
    with Study.open(campaign_file) as study:
        study.ask()
        assert study.folder == campaign_file.parent / "runs" / "demo.evomerge"
    with Study.open(str(campaign_file)) as study:
        assert [candidate.number for candidate in study.ask()] == [1]
    with Study.open(study.folder) as study:
        assert len(study.trials()) == 2
    with Study.open(Campaign.load(campaign_file)) as study:
        assert study.name == "demo"


def test_reading_changes_nothing_and_needs_no_campaign_file(campaign_file: Path) -> None:
    with Study.open(campaign_file) as study:
        study.ask()
        with Study.read(campaign_file) as reader:  # beside the writer
            assert len(reader.trials()) == 1
    campaign_file.unlink()
    for model in ("base", "math", "code"):
        (campaign_file.parent / model / "model.safetensors").unlink()
    with Study.read(study.folder) as reader:
        assert [goal.metric for goal in reader.goals] == ["a", "b"]
        assert reader.campaign.seed == 0


def test_there_may_be_no_study_to_read(campaign_file: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no study here"):
        Study.read(campaign_file)
    assert not (tmp_path / "runs").exists()


def test_one_writer_at_a_time(campaign_file: Path) -> None:
    with Study.open(campaign_file), pytest.raises(StudyLockedError, match="in use by process"):
        Study.open(campaign_file)


def test_a_failed_opening_lets_go_of_the_lock(write_campaign: Callable[..., Path]) -> None:
    with Study.open(write_campaign()):
        pass
    edited = write_campaign(("sampler: random", "sampler: sobol"))
    for _ in range(2):
        with pytest.raises(StudyMismatchError):
            Study.open(edited)
    with Study.open(write_campaign()):
        pass


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("sampler: random", "sampler: sobol", 'sampler.name: "random" -> "sobol"'),
        ("lookahead: 2", "lookahead: 3", "lookahead: 2 -> 3"),
        ("lookahead: 2", "lookahead: 2\nseed: 7", "seed: 0 -> 7"),
        (
            "direction: minimize",
            "direction: maximize",
            'goals.b.direction: "minimize" -> "maximize"',
        ),
        (
            "direction: minimize",
            "direction: minimize, limit: 0.5",
            "goals.b.limit: null -> 0.5",
        ),
        ("{math: math, code: code}", "{math: math}", 'models[1]: "code" -> (absent)'),
    ],
)
def test_an_edit_that_changes_results_is_refused_and_shown(
    write_campaign: Callable[..., Path], old: str, new: str, line: str
) -> None:
    with Study.open(write_campaign()) as study:
        study.ask()
    with pytest.raises(StudyMismatchError) as caught:
        Study.open(write_campaign((old, new)))
    assert line in caught.value.cause
    assert "--fork" in (caught.value.command or "")
    with Study.open(write_campaign()) as study:
        assert len(study.trials()) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trials: 12", "trials: 20"),
        ("lookahead: 2", "lookahead: 2\nworkers: 2\ntimeout: 60"),
        ("sampler: random", "# a remark\nsampler: random"),
    ],
)
def test_a_safe_edit_resumes_and_is_remembered(
    write_campaign: Callable[..., Path], old: str, new: str
) -> None:
    with Study.open(write_campaign()):
        pass
    edited = write_campaign((old, new))
    with Study.open(edited) as study:
        events = [event for event in study.events() if event.kind == "edited"]
        assert [event.data["source"] for event in events] == [edited.read_text()]
        assert study.limit == (20 if "20" in new else 12)


def test_the_sampler_keeps_the_plan_that_it_was_made_for(
    write_campaign: Callable[..., Path],
) -> None:
    with Study.open(write_campaign()):
        pass
    with Study.open(write_campaign(("trials: 12", "trials: 20"))) as study:
        assert study.charter.trials == 12


def test_a_changed_model_is_refused(campaign_file: Path) -> None:
    with Study.open(campaign_file):
        pass
    shard = campaign_file.parent / "math" / "model.safetensors"
    tensors = load_file(shard)
    save_file({name: np.zeros_like(t) for name, t in tensors.items()}, shard)
    with pytest.raises(StudyMismatchError, match=r"models\.math: model\.safetensors has"):
        Study.open(campaign_file)


def test_a_touched_model_is_read_again_and_accepted(campaign_file: Path) -> None:
    with Study.open(campaign_file):
        pass
    os.utime(campaign_file.parent / "math" / "model.safetensors")
    with Study.open(campaign_file):
        pass


def test_models_may_move_if_they_stay_the_same(write_campaign: Callable[..., Path]) -> None:
    file = write_campaign()
    with Study.open(file):
        pass
    (file.parent / "math").rename(file.parent / "moved")
    with Study.open(write_campaign(("math: math", "math: moved"))):
        pass


def test_changed_items_are_refused_and_changed_code_is_noted(
    write_campaign: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    file = write_campaign(("items: 10}}", "items: items.jsonl}}"))
    items = file.parent / "items.jsonl"
    items.write_text("1\n2\n3\n4\n5\n")
    with Study.open(file) as study:
        assert study.charter.counts == {"a": 5, "b": 10}
    (file.parent / "score.py").write_text("def a(subject, items): ...\ndef b(subject, items): 1\n")
    with Study.open(file) as study:
        assert [event.kind for event in study.events()][-2:] == ["code changed", "opened"]
    assert "measured by the old code" in caplog.text
    items.write_text("1\n2\n3\n4\n6\n")
    with pytest.raises(StudyMismatchError, match=r"items of a: items\.jsonl has changed"):
        Study.open(file)


def test_too_few_items_make_no_study(write_campaign: Callable[..., Path]) -> None:
    file = write_campaign(('score.py:b", items: 10', 'score.py:b", items: 2'))
    with pytest.raises(UsageError, match="2 items"):
        Study.open(file)
    with Study.open(write_campaign()):
        pass


def test_a_folder_with_other_things_is_left_alone(campaign_file: Path) -> None:
    folder = campaign_file.parent / "runs" / "demo.evomerge"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("")
    with pytest.raises(StudyError, match=r"thesis\.tex"):
        Study.open(campaign_file)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_studys_place_is_left_alone(campaign_file: Path) -> None:
    folder = campaign_file.parent / "runs" / "demo.evomerge"
    folder.parent.mkdir()
    folder.write_text("mine")
    with pytest.raises(StudyError, match="is a file"):
        Study.open(campaign_file)


def test_a_study_that_lost_its_database_is_not_begun_anew(campaign_file: Path) -> None:
    with Study.open(campaign_file) as study:
        pass
    (study.folder / DATABASE).unlink()
    with pytest.raises(StudyDamagedError, match=r"study\.db is missing"):
        Study.open(campaign_file)
    assert not (study.folder / DATABASE).exists()


def test_a_newer_study_is_refused_and_left_as_it_is(campaign_file: Path) -> None:
    with Study.open(campaign_file) as study:
        study._database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StudyMismatchError, match="newer evomerge"):
        Study.open(campaign_file)
    with Study.read(campaign_file) as reader:
        assert reader.trials() == []


OPEN = (
    "import sys\nfrom evomerge.errors import StudyLockedError\n"
    "from evomerge.study.study import Study\n"
    "with Study.open(sys.argv[1], wait_seconds=60) as study:\n"
    "    print(*[c.number for c in study.ask(2)])"
)


def test_many_may_open_a_new_study_at_once(campaign_file: Path) -> None:
    command = [sys.executable, "-c", OPEN, str(campaign_file)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    answers = [process.communicate() for process in processes]
    numbers = sorted(int(word) for out, _ in answers for word in out.split())
    assert numbers == list(range(8)), answers


def result(attempt: int, token: str, a: float) -> bytes:
    scores = {"a": Scores([a] * 6), "b": Scores([0.5] * 6)}
    evaluations = {"search": Evaluation(scores, 1.0)}
    return encode(Answer(attempt, token, 0, Outcome.SUCCEEDED, evaluations, seconds=1.0))


def test_attempts_of_a_dead_coordinator_are_lost_and_their_trials_wait(
    campaign_file: Path,
) -> None:
    with Study.open(campaign_file) as study:
        study.ask()
        study.begin(0, "search", "w")
    with Study.open(campaign_file) as study:
        assert [attempt.outcome for attempt in study.attempts()] == [Outcome.LOST]
        waiting = study.ask_next()
        assert waiting is not None and waiting.number == 0


def test_a_result_that_a_worker_left_behind_is_told(campaign_file: Path) -> None:
    with Study.open(campaign_file) as study:
        study.ask()
        attempt = study.begin(0, "search", "w")
        folder = study.attempt_folder(attempt)
        folder.mkdir(parents=True)
        (folder / "result.json").write_bytes(result(attempt.id, attempt.token, 0.75))
    with Study.open(campaign_file) as study:
        assert study.trial(0).values() == {"a": 0.75, "b": 0.5}
        assert study.attempts()[0].outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"kind": "answer"}'])
def test_a_torn_or_foreign_result_is_not_told(campaign_file: Path, content: bytes) -> None:
    with Study.open(campaign_file) as study:
        study.ask()
        study.begin(0, "search", "w")
        folder = attempt_folder(study.folder, 1)
        folder.mkdir(parents=True)
        (folder / "result.json").write_bytes(content or result(1, "another-token", 0.75))
    with Study.open(campaign_file) as study:
        assert study.trial(0).state is TrialState.PENDING


def test_differences_are_one_line_each() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": {}}
    new = {"a": 1, "b": {"c": [1, 3, 4], "d": "x" * 100}, "f": True}
    assert differences(old, new) == [
        "b.c[1]: 2 -> 3",
        f'b.d: null -> "{"x" * 56}...',
        "e: {} -> (absent)",
        "b.c[2]: (absent) -> 4",
        "f: (absent) -> true",
    ]
    assert differences(old, old) == []


def test_a_backup_is_made_at_intervals_also_by_short_commands(campaign_file: Path) -> None:
    with Study.open(campaign_file) as study:
        study.ask(2)
        study.tell(0, {"a": 0.5, "b": 0.5})
        backup = study.folder / BACKUP
        fresh = backup.stat().st_mtime
    assert fresh == backup.stat().st_mtime
    os.utime(backup, (fresh - 2 * INTERVAL_SECONDS, fresh - 2 * INTERVAL_SECONDS))
    with Study.open(campaign_file) as study:
        study.tell(1, {"a": 0.5, "b": 0.5})
        assert backup.stat().st_mtime >= fresh
