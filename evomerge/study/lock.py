"""One writer per study: an advisory lock that the kernel drops when its holder dies.

The lock is flock(2) on the file ``lock`` in the study's folder; the file's content names the
holder, for the message that the second one gets. A lock left by a dead process cannot exist, so
nothing needs to guess whether a holder is alive.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

from evomerge.errors import StudyError, StudyLockedError

NAME = "lock"
_POLL_SECONDS = 0.05


class Lock:
    """Held from construction until `release`, or until the process dies."""

    def __init__(self, folder: Path, *, wait_seconds: float = 0.0) -> None:
        """Takes the lock of a study's folder, which exists.

        Args:
            wait_seconds: how long to wait for another holder to finish.

        Raises:
            StudyLockedError: if another process holds it; says which.
            StudyError: if the lock file cannot be written.
        """
        path = folder / NAME
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StudyError(
                f"the study's lock cannot be opened ({error.strerror})", place=str(path)
            ) from error
        try:
            self._take(folder, time.monotonic() + wait_seconds)
            self._sign()
        except BaseException:
            os.close(self._handle)
            raise

    def _take(self, folder: Path, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StudyLockedError(
                        f"the study is in use by {holder(folder)}",
                        place=str(folder),
                        kept="nothing was changed",
                        command=f"evomerge status {folder}",
                    ) from None
            time.sleep(_POLL_SECONDS)

    def _sign(self) -> None:
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        try:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, json.dumps(about).encode(), 0)
        except OSError:
            return  # a full disk: the lock holds all the same, only nameless

    def release(self) -> None:
        """Lets the next writer in; twice is harmless."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def holder(folder: Path) -> str:
    """Who signed the lock last, in words."""
    try:
        about = json.loads((folder / NAME).read_text("utf-8"))
        since = datetime.fromtimestamp(about["since"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"process {about['pid']} on {about['host']}, since {since}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"


def is_held(folder: Path) -> bool:
    """Whether a writer has the study open at this moment; changes nothing."""
    try:
        handle = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
