"""What the file system under a study is, and making sure that what was written is there."""

from __future__ import annotations

import os
from pathlib import Path

from evomerge.errors import StudyError

NETWORK = (
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "smb",
)
"""Beginnings of the names of file systems on which SQLite's write-ahead mode is unsafe."""

_MOUNTS = Path("/proc/self/mountinfo")
_SPARE_BYTES = 64 * 1024


def is_network(folder: Path) -> bool:
    """Whether a folder lies on a file system shared between machines, or behind FUSE.

    Where the system has no table of mounts, the answer is no.
    """
    return kind_of(folder).startswith(NETWORK)


def kind_of(folder: Path) -> str:
    """The type of the file system under a folder, as the kernel names it; empty if unknown."""
    try:
        lines = _MOUNTS.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return mounted(lines, folder.resolve())


def mounted(lines: list[str], folder: Path) -> str:
    """The type of the deepest mount above a folder.

    Args:
        lines: of ``/proc/self/mountinfo``, see proc(5).
        folder: absolute.
    """
    best, kind = -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))
        depth = len(point.parts)
        if depth >= best and (folder == point or point in folder.parents):
            best, kind = depth, right.split(" ")[0]
    return kind


def is_full(folder: Path) -> bool:
    """Whether hardly anything can be written any more."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize < _SPARE_BYTES


def synchronise(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """The folder and its parents, unless they are there.

    Raises:
        StudyError: if they cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(
            f"the study's folder cannot be made ({error.strerror})", place=str(folder)
        ) from error
