"""What a writer does first: ends the attempts that a dead coordinator left running.

An attempt whose worker wrote its result is told; any other is lost, and its trial waits again.
"""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import StudyDamagedError
from evomerge.study import journal
from evomerge.study.database import Database
from evomerge.study.folder import RESULT, attempt_folder
from evomerge.study.records import Attempt
from evomerge.study.telling import Telling
from evomerge.study.workers.messages import Answer, decode
from evomerge.study.workers.processes import kill_marked, marker_of
from evomerge.trial import Candidate, Outcome


def recover(telling: Telling, folder: Path) -> int:
    """Ends all running attempts; only for the one who holds the study's lock.

    Returns:
        How many were lost, their results not being there.
    """
    lost = 0
    running = running_attempts(telling.database)
    if running:  # a worker that has not yet noticed might write its result after we looked
        kill_marked(marker_of(folder), prefix=True)
    for attempt in running:
        answer = read_answer(folder, attempt.id)
        if answer is None or answer.token != attempt.token:
            answer = Answer(attempt.id, attempt.token, attempt.trial, Outcome.LOST)
            lost += 1
        end_by_answer(telling, attempt, answer)
    return lost


def end_by_answer(telling: Telling, attempt: Attempt, answer: Answer) -> None:
    """Tells what a result file says; a failure that is no candidate's fault is a lost attempt."""
    outcome = Outcome.LOST if answer.broken is not None else answer.outcome
    reason = answer.reason or (
        "its coordinator was gone before it ended" if outcome is Outcome.LOST else None
    )
    telling.end(attempt, outcome, answer.evaluations, reason, answer.seconds)


def running_attempts(database: Database) -> list[Attempt]:
    """Attempts without an end, in order."""
    rows = database.rows(
        "SELECT id, trial, splits, token FROM attempts WHERE outcome IS NULL ORDER BY id"
    )
    return [Attempt(row[0], row[1], tuple(row[2].split()), row[3]) for row in rows]


def read_answer(folder: Path, attempt: int) -> Answer | None:
    """What an attempt's result file says; None if there is none, or not a whole one."""
    try:
        message = decode((attempt_folder(folder, attempt) / RESULT).read_bytes())
    except (OSError, StudyDamagedError):
        return None
    return message if isinstance(message, Answer) and message.attempt == attempt else None


def salvage(telling: Telling, folder: Path, candidate: Candidate) -> None:
    """Tells a candidate what an earlier life of the study measured of it.

    After a repair from a backup, trials that the backup does not know are asked again, bit for
    bit the same; their result files, which the repair listed, are told instead of measured again.
    """
    database = telling.database
    rows = database.rows(
        "SELECT attempt FROM salvage WHERE trial = ? ORDER BY attempt", [candidate.number]
    )
    for (number,) in rows:
        answer = read_answer(folder, number)
        with database.transaction("salvage"):
            database.execute("DELETE FROM salvage WHERE attempt = ?", [number])
            told = answer is not None and _told_again(telling, candidate, answer)
            journal.write(database, "salvaged", trial=candidate.number, attempt=number, told=told)


def _told_again(telling: Telling, candidate: Candidate, answer: Answer) -> bool:
    """Whether a result file is of this candidate, and was news."""
    splits = tuple(answer.evaluations) or ("search",)
    if answer.broken is not None or not telling.is_open(candidate.number, splits):
        return False
    if answer.token.partition("-")[2] != telling.mark(candidate, splits):
        return False
    attempt = telling.begin(candidate.number, splits, "salvage")
    end_by_answer(telling, attempt, answer)
    return True
