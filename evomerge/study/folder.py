"""What lies where in a study's folder."""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import StudyDamagedError, StudyError
from evomerge.study import lock

DATABASE = "study.db"
BACKUP = "study.backup.db"
ATTEMPTS = "attempts"
SCRATCH = "scratch"
SELF_TEST = "self-test"
ENDPOINTS = "endpoints.db"
RESULT = "result.json"
LOG = "log"


def attempt_folder(folder: Path, attempt: int) -> Path:
    """Where an attempt's log and result go."""
    return folder / ATTEMPTS / str(attempt)


def scratch_folder(folder: Path, attempt: int) -> Path:
    """Where the merged checkpoint of an attempt lies while it is measured."""
    return folder / SCRATCH / str(attempt)


def holds_study(folder: Path) -> bool:
    """Whether a study's database lies there, with something in it."""
    database = folder / DATABASE
    return database.is_file() and database.stat().st_size > 0


def check_there(folder: Path, campaign: Path | None = None) -> None:
    """Refuses to look at a study that is not there.

    Args:
        campaign: the file that names it, for the advice.

    Raises:
        StudyDamagedError: if a study without its database lies there.
        StudyError: if no study does.
    """
    if holds_study(folder):
        return
    check_remains(folder)
    raise StudyError(
        "there is no study here",
        place=str(folder),
        command=f"evomerge run {campaign or 'CAMPAIGN'}",
    )


def check_free(folder: Path) -> None:
    """Refuses to make a study where something else lies, or where one has lost its database.

    Raises:
        StudyDamagedError: if a study without its database lies there.
        StudyError: if something else does.
    """
    if holds_study(folder) or not folder.exists():
        return
    if not folder.is_dir():
        raise StudyError("the study's folder is a file", place=str(folder))
    check_remains(folder)
    if (folder / DATABASE).exists():  # of a creation that was killed
        return
    foreign = [path.name for path in folder.iterdir() if path.name != lock.NAME]
    if foreign:
        raise StudyError(
            f"the study's folder holds other things ({sorted(foreign)[0]}, ...); "
            "name a new or an empty one",
            place=str(folder),
            kept="nothing was changed",
        )


def check_remains(folder: Path) -> None:
    """Refuses a study's folder whose database is gone while other parts are there.

    Raises:
        StudyDamagedError: if it is one.
    """
    if (folder / BACKUP).exists() or (folder / ATTEMPTS).exists():
        raise StudyDamagedError(
            f"{DATABASE} is {'empty' if (folder / DATABASE).exists() else 'missing'}",
            place=str(folder),
            kept="its backup and the attempts' result files are kept",
            command=f"evomerge verify {folder} --repair",
        )
