"""Files and folders that appear whole or not at all.

What is written lies beside its target under a name that says whose it is, is flushed to the disk,
and gets its final name by one rename. A kill or a power cut leaves the old state or the new one,
and a leftover that the next `sweep` removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evomerge.checkpoint.names import shown
from evomerge.checkpoint.process import ProcessMark, this_process
from evomerge.errors import DiskFullError, StudyError, UsageError
from evomerge.faults import reach

PART = ".evomerge-part"
"""Ends the names of files and folders that are being written."""

SET_ASIDE = ".evomerge-old"
"""Ends the names of folders that are being replaced."""

FOREIGN_AGE = 24 * 3600.0
"""Seconds without a change after which leftovers of processes that cannot be seen are swept."""

_NOTHING_LEFT = "what was written of it was removed"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # EFBIG: over the limit on files' size
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


def write_file(path: Path, data: bytes) -> None:
    """Give the file this content, at once; a file of that name is replaced.

    Raises:
        DiskFullError: there is no space; the old file stands.
        StudyError: it cannot be written there; the old file stands.
    """
    temporary = _name_beside(path, PART)
    with explained(path, kept="the old file, if there was one, stands"):
        try:
            with temporary.open("xb") as file:  # mode 0666 less the umask
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            reach("file.before-rename")
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        reach("file.after-rename")
        sync_folder(path.parent)


@contextmanager
def staged_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends without an error.

    Leftovers of dead processes beside the target are swept first.

    Args:
        target: must not exist, unless as an empty folder.
        replace: a folder or file that stands there makes room, and is lost, at the end.

    Raises:
        UsageError: the target exists.
        DiskFullError: there is no space; nothing of what was written is left.
        StudyError: it cannot be written there.
    """
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        if not replace:
            _refuse_existing(target)
        temporary = _name_beside(target, PART)
        temporary.mkdir()  # mode 0777 less the umask
    try:
        with _no_space_explained(target):
            yield temporary
        with explained(target):
            _sync_tree(temporary)
            reach("checkpoint.before-rename")
            _move(temporary, target, replace)
            reach("checkpoint.after-rename")
            sync_folder(target.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, DiskFullError):  # told of the target, not of a name that is gone
            raise DiskFullError(error.cause, place=shown(target), kept=_NOTHING_LEFT) from error
        raise


def sweep(parent: Path) -> tuple[Path, ...]:
    """Remove what dead processes left in this folder; returns what was removed.

    A folder that was set aside by a process that died before its replacement got the name is
    given its name back. What belongs to a process that cannot be seen from here (another machine
    or container) goes when nothing in it has changed for a day.
    """
    swept = []
    for leftover in _leftovers(parent):
        if not _is_abandoned(leftover):
            continue
        if leftover.name.endswith(SET_ASIDE) and _gave_back(leftover):
            continue
        _remove(leftover)
        swept.append(leftover)
    return tuple(swept)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names; file systems that cannot are passed over."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def explained(target: Path, *, kept: str | None = None) -> Iterator[None]:
    """Turn an OSError of writing into our own."""
    try:
        with _no_space_explained(target, kept=kept):
            yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StudyError(f"cannot be written: {reason}", place=shown(target), kept=kept) from error


@contextmanager
def _no_space_explained(target: Path, *, kept: str | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise DiskFullError(
            f"cannot be written: {error.strerror}; make room and run the same command again",
            place=shown(target),
            kept=kept,
        ) from error


def _name_beside(target: Path, ending: str) -> Path:
    """A new name in the target's folder that tells its owner.

    A folder that is set aside keeps its whole name, to get it back; others are cut, so that the
    rest fits into the 255 bytes that a name may have.
    """
    if target.name in ("", ".."):
        raise UsageError("has no name of its own; give the name to be made", place=shown(target))
    name = target.name if ending == SET_ASIDE else target.name[:30]
    return target.with_name(f".{name}.{this_process()}.{secrets.token_hex(4)}{ending}")


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target) and not _is_empty_folder(target):
        raise UsageError("exists already; choose another name", place=shown(target))


def _is_empty_folder(target: Path) -> bool:
    return target.is_dir() and not target.is_symlink() and not any(target.iterdir())


def _move(temporary: Path, target: Path, replace: bool) -> None:
    """Rename; what stands at the target is set aside first, or refused."""
    if not replace:
        _refuse_existing(target)
    if not os.path.lexists(target) or _is_empty_folder(target):
        temporary.rename(target)
        return
    aside = _name_beside(target, SET_ASIDE)
    target.rename(aside)
    try:
        reach("checkpoint.between-renames")
        temporary.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    sync_folder(target.parent)
    _remove(aside)


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            _sync_file(Path(place, name))
        sync_folder(Path(place))


def _sync_file(path: Path) -> None:
    if path.is_symlink() or not path.is_file():
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _leftovers(parent: Path) -> list[Path]:
    try:
        return [entry for entry in parent.iterdir() if _owner(entry) is not None]
    except FileNotFoundError:
        return []


def _owner(leftover: Path) -> ProcessMark | None:
    """The mark in ``.NAME.MARK.RANDOM.evomerge-part``; None when it is another file."""
    name = leftover.name
    if not name.startswith(".") or not name.endswith((PART, SET_ASIDE)):
        return None
    parts = name.split(".")
    return ProcessMark.parse(parts[-3]) if len(parts) >= 5 else None


def _is_abandoned(leftover: Path) -> bool:
    owner = _owner(leftover)
    alive = owner.is_alive() if owner is not None else True
    if alive is None:
        return time.time() - _last_change(leftover) > FOREIGN_AGE
    return not alive


def _last_change(leftover: Path) -> float:
    """Seconds since 1970; the newest change of the file, or of anything in the folder."""
    newest = 0.0
    for path in (leftover, *leftover.rglob("*")):
        with contextlib.suppress(OSError):
            newest = max(newest, path.lstat().st_mtime)
    return newest


def _gave_back(aside: Path) -> bool:
    """Give a set-aside folder its name again, if nothing took it."""
    target = aside.with_name(aside.name[1:].rsplit(".", 3)[0])
    if os.path.lexists(target):
        return False
    aside.rename(target)
    return True


def _remove(path: Path) -> None:
    """Delete a file or folder; another process may be doing the same."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
