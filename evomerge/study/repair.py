"""Bringing a damaged study back: from its backup, and from the attempts' result files.

Nothing is thrown away: the damaged database stays beside the restored one. What the backup does
not know is asked again, bit for bit the same, and told from its result file instead of measured
again; only what was told by hand since the backup has to be told once more.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

from evomerge import faults
from evomerge.errors import StudyDamagedError, StudyError
from evomerge.study import filesystem, folder, forking, journal, opening, recovery
from evomerge.study.database import Database
from evomerge.study.lock import Lock
from evomerge.study.rows import load_trials
from evomerge.study.telling import Telling
from evomerge.study.verify import Finding, attempt_numbers, file_problems, verify

__all__ = ["Finding", "repair", "study_folder", "verify"]

_RESTORED = "study.restored.db"


def study_folder(path: Path) -> Path:
    """The study's folder, of itself or of a campaign file.

    Raises:
        StudyError: if there is no study.
    """
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        from evomerge.recipe.campaign import Campaign

        found = forking.find(Campaign.load(path))
        if not (found / folder.BACKUP).exists():
            folder.check_there(found, path)
        return found
    known = (folder.DATABASE, folder.BACKUP, folder.ATTEMPTS)
    if not any((path / name).exists() for name in known):
        raise StudyError("there is neither a study nor an export here", place=str(path))
    return path


def repair(place: Path) -> list[str]:
    """Makes a study whole again as far as what is left of it allows.

    Returns:
        What was done, line by line; empty if there was nothing to do.

    Raises:
        StudyLockedError: if another process has the study open.
        StudyDamagedError: if neither the database nor its backup is whole.
    """
    lock = Lock(place)
    try:
        done = []
        if not (place / folder.DATABASE).exists() or file_problems(place / folder.DATABASE):
            done += _restore(place)
        with closing(Database(place / folder.DATABASE, mode="write")) as database:
            done += _salvage(place, database)
            if file_problems(place / folder.BACKUP):
                database.copy_to(place / folder.BACKUP)
                done.append(f"made a new {folder.BACKUP}")
        return done
    finally:
        lock.release()


def _restore(place: Path) -> list[str]:
    backup = place / folder.BACKUP
    wrong = file_problems(backup)
    if wrong:
        raise StudyDamagedError(
            f"neither {folder.DATABASE} nor {folder.BACKUP} is whole ({wrong[0]})",
            place=str(place),
            kept=f"the result files in {folder.ATTEMPTS}/ are there",
        )
    restored = place / _RESTORED
    shutil.copyfile(backup, restored)
    filesystem.synchronise(restored)
    aside = _set_aside(place)
    faults.reach("study.repair.before-rename")
    restored.replace(place / folder.DATABASE)
    filesystem.synchronise(place)
    moved = [f"kept the damaged database as {aside}"] if aside else []
    return [*moved, f"restored {folder.DATABASE} from {folder.BACKUP}"]


def _set_aside(place: Path) -> str | None:
    """Moves the damaged database with its journals; another name each time."""
    number = 1
    while any(place.glob(f"study.damaged-{number}.db*")):
        number += 1
    name = f"study.damaged-{number}.db"
    for ending in ("", "-wal", "-shm", "-journal"):
        path = place / f"{folder.DATABASE}{ending}"
        if path.exists():
            path.rename(place / f"{name}{ending}")
    return name if (place / name).exists() else None


def _salvage(place: Path, database: Database) -> list[str]:
    """Lists result files that the database does not know, and tells those of known trials."""
    charter = opening.load_charter(database)
    known = {number for (number,) in database.rows("SELECT id FROM attempts")}
    listed = {number for (number,) in database.rows("SELECT attempt FROM salvage")}
    numbers = attempt_numbers(place)
    found = {
        number: answer
        for number in numbers
        if number not in known | listed and (answer := recovery.read_answer(place, number))
    }
    with database.transaction("repair"):
        for number, answer in found.items():
            database.execute("INSERT INTO salvage VALUES (?, ?)", [number, answer.trial])
        _raise_sequence(database, max(numbers, default=0))
        if found:
            journal.write(database, "repaired", results=len(found))
    telling = Telling(database, charter, session=0)
    for trial in load_trials(database):
        recovery.salvage(telling, place, trial.candidate)
    if not found:
        return []
    left = len(database.rows("SELECT attempt FROM salvage"))
    told = f"took back {len(found) - left} results from result files"
    later = f"{left} more will be told when their trials are asked again"
    return [told, later] if left else [told]


def _raise_sequence(database: Database, last: int) -> None:
    """The next attempt gets a number that no folder has."""
    row = database.row("SELECT seq FROM sqlite_sequence WHERE name = 'attempts'")
    if row is None:
        database.execute("INSERT INTO sqlite_sequence VALUES ('attempts', ?)", [last])
    elif row[0] < last:
        database.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'attempts'", [last])
