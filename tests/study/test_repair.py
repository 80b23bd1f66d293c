"""Verify finds what is wrong; repair brings back what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.errors import StudyDamagedError, StudyError, StudyLockedError
from evomerge.study.folder import BACKUP, DATABASE
from evomerge.study.repair import repair, study_folder, verify
from evomerge.study.study import Study
from evomerge.study.workers.messages import Answer, encode
from evomerge.trial import Evaluation, Outcome, Scores, Trial


def measure_next(study: Study) -> int | None:
    """One turn of the loop, result file included, as the engine does it."""
    candidate = study.ask_next()
    if candidate is None:
        return None
    number = candidate.number
    attempt = study.begin(number, "search", "w")
    scores = {"a": Scores([number / 20] * 6), "b": Scores([1 / (1 + number)] * 6)}
    evaluations = {"search": Evaluation(scores, 1.0)}
    folder = study.attempt_folder(attempt)
    folder.mkdir(parents=True)
    answer = Answer(attempt.id, attempt.token, number, Outcome.SUCCEEDED, evaluations, seconds=1.0)
    (folder / "result.json").write_bytes(encode(answer))
    study.end(attempt, Outcome.SUCCEEDED, evaluations=evaluations, seconds=1.0)
    return number


def contents(trials: list[Trial]) -> list[tuple[object, ...]]:
    return [(t.candidate.origin, dict(t.candidate.parameters), t.state, t.values()) for t in trials]


def spoil(path: Path) -> None:
    """Overwrites the second half of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    path.write_bytes(content)


@pytest.fixture
def folder(campaign_file: Path) -> Path:
    """A closed study of nine trials; the backup knows five."""
    with Study.open(campaign_file) as study:
        for number in range(9):
            assert measure_next(study) == number
            if number == 4:
                study.backup()
    return study.folder


def test_a_whole_study_has_no_findings(folder: Path) -> None:
    assert verify(folder) == []
    assert repair(folder) == []


def test_a_running_study_can_be_verified_but_not_repaired(campaign_file: Path) -> None:
    with Study.open(campaign_file) as study:
        study.ask()
        assert verify(study.folder) == []
        with pytest.raises(StudyLockedError):
            repair(study.folder)


@pytest.mark.parametrize("harm", [spoil, Path.unlink])
def test_what_was_measured_since_the_backup_comes_back_from_the_result_files(
    folder: Path, campaign_file: Path, harm: Callable[[Path], None]
) -> None:
    with Study.read(folder) as study:
        before = contents(study.trials())
    harm(folder / DATABASE)
    assert verify(folder)[0].severity == "error"
    with pytest.raises(StudyDamagedError, match=r"damaged|missing"):
        Study.open(campaign_file)
    lines = repair(folder)
    assert f"restored {DATABASE} from {BACKUP}" in lines
    assert verify(folder) == []
    with Study.open(campaign_file) as study:
        assert len(study.trials()) == 5
        measured = []
        while (number := measure_next(study)) is not None:
            measured.append(number)
        assert measured == [9, 10, 11]  # 5 to 8 were told from their files
        assert contents(study.trials())[:9] == before
        assert [trial.visible_from for trial in study.trials()][:7] == [4, 4, 5, 6, 7, 8, 9]
        attempts = [attempt.id for attempt in study.attempts()]
        assert len(set(attempts)) == len(attempts)


def test_the_damaged_database_is_kept(folder: Path) -> None:
    spoil(folder / DATABASE)
    damaged = (folder / DATABASE).read_bytes()
    repair(folder)
    assert (folder / "study.damaged-1.db").read_bytes() == damaged
    spoil(folder / DATABASE)
    repair(folder)
    assert (folder / "study.damaged-2.db").exists()


def test_results_of_trials_that_the_backup_knows_are_told_at_once(campaign_file: Path) -> None:
    with Study.open(campaign_file) as study:
        study.ask()
        study.backup()
        measure_next(study)
    spoil(study.folder / DATABASE)
    repair(study.folder)
    with Study.read(study.folder) as restored:
        assert restored.trial(0).values() == {"a": 0.0, "b": 1.0}


def test_result_files_of_other_candidates_are_not_told(folder: Path, campaign_file: Path) -> None:
    spoil(folder / DATABASE)
    for path in (folder / "attempts").glob("*/result.json"):
        path.write_bytes(path.read_bytes().replace(b'"token":"1-', b'"token":"1-0'))
    repair(folder)
    with Study.open(campaign_file) as study:
        assert measure_next(study) == 5


def test_neither_database_nor_backup_cannot_be_repaired(folder: Path) -> None:
    spoil(folder / DATABASE)
    spoil(folder / BACKUP)
    before = (folder / DATABASE).read_bytes()
    with pytest.raises(StudyDamagedError, match="neither"):
        repair(folder)
    assert (folder / DATABASE).read_bytes() == before


def test_a_lost_backup_is_made_again(folder: Path) -> None:
    (folder / BACKUP).unlink()
    assert [finding.row() for finding in verify(folder)] == [
        {"severity": "warning", "text": "study.backup.db is missing"}
    ]
    assert repair(folder) == ["made a new study.backup.db"]
    assert verify(folder) == []


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("UPDATE results SET mean = 0.123 WHERE trial = 3 AND metric = 'a'", "do not give its"),
        ("DELETE FROM scores WHERE trial = 3 AND metric = 'a'", "no search scores of a"),
        ("DELETE FROM results WHERE trial = 3", "search results do not say so"),
        ("UPDATE trials SET state = 'failed' WHERE number = 3", "failed without a reason"),
        ("UPDATE trials SET visible_from = 3 WHERE number = 3", "before it was asked"),
        ("UPDATE study SET charter = '{}'", "charter cannot be read"),
        ("UPDATE scores SET items = x'00' WHERE trial = 3", "cannot be read"),
        ("DELETE FROM trials WHERE number = 3", "a candidate has no state"),
        ("UPDATE candidates SET numbers = x'00' WHERE number = 3", "cannot be read"),
        ("DELETE FROM attempts WHERE id = 9", "refers to a missing row"),
    ],
)
def test_every_broken_invariant_is_found(folder: Path, sql: str, text: str) -> None:
    with Study.open(folder) as study:
        study._database.execute("PRAGMA foreign_keys = OFF")
        study._database.execute(sql)
    assert any(text in finding.text for finding in verify(folder)), verify(folder)


def test_a_result_file_that_the_database_does_not_know_is_found(folder: Path) -> None:
    (folder / "attempts" / "9").rename(folder / "attempts" / "12")
    path = folder / "attempts" / "12" / "result.json"
    path.write_bytes(path.read_bytes().replace(b'"attempt":9', b'"attempt":12'))
    assert [f.text for f in verify(folder)] == [
        "attempt 12 has a result that the database does not know"
    ]


def test_a_result_file_that_differs_is_found(folder: Path) -> None:
    path = folder / "attempts" / "9" / "result.json"
    path.write_bytes(path.read_bytes().replace(b"0.4", b"0.5"))
    assert [f.text for f in verify(folder)] == [
        "attempt 9: its result file and the database differ"
    ]


def test_a_study_is_found_by_its_campaign_or_its_folder(folder: Path, campaign_file: Path) -> None:
    assert study_folder(campaign_file) == folder
    assert study_folder(folder) == folder
    with pytest.raises(StudyError, match="neither a study nor an export"):
        study_folder(folder / "attempts")
