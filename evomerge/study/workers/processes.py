"""Trees of processes: every worker's descendants end with it, whatever they do to stay.

A worker starts processes that we know nothing of (an inference server, its engines), in sessions
of their own perhaps. Three things keep hold of them: the guard (`guard.py` beside this file), to
which the system hands orphans; the marker in the environment, which all descendants inherit; and
the parent-death signal, by which a worker dies with its guard.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

MARKER = "EVOMERGE_WORKER"
"""The environment variable that marks a worker and its descendants: ``study folder|number|run``."""

_SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)
_SET_CHILD_SUBREAPER = 36
_PAUSE = 0.01  # seconds between two looks
_STUBBORN = 5.0  # seconds after which a process that SIGKILL does not end is left to the system


def die_with_parent(parent: int) -> None:
    """Be killed when the parent dies (Linux; elsewhere the guard alone watches).

    Args:
        parent: its process id; if it is dead already, this process ends here.
    """
    _control(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent dies (Linux)."""
    _control(_SET_CHILD_SUBREAPER, 1)


def _control(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def kill_descendants(root: int, *, grace: float) -> None:
    """End all descendants of a process: SIGTERM, `grace` seconds, SIGKILL until none is left."""

    def family() -> list[psutil.Process]:
        try:
            return [p for p in psutil.Process(root).children(recursive=True) if _lives(p)]
        except psutil.NoSuchProcess:
            return []

    _end(family, grace)


def kill_marked(marker: str, *, prefix: bool = False) -> int:
    """End every process of this user that carries a marker, but not this one.

    Args:
        marker: the variable's value.
        prefix: whether the marker may go on: all workers of one study.

    Returns:
        how many there were.
    """

    def family() -> list[psutil.Process]:
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and marked(p)]

    def marked(process: psutil.Process) -> bool:
        try:
            value = process.environ().get(MARKER, "")
        except (psutil.Error, OSError):  # ended, or another user's
            return False
        return (value.startswith(marker) if prefix else value == marker) and _lives(process)

    return _end(family, grace=0.0)


def marker_of(study: Path, number: int | None = None, run: str = "") -> str:
    """The marker of one worker; without a number, what all those of a study start with."""
    place = study.resolve()
    return f"{place}|" if number is None else f"{place}|{number}|{run}"


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _end(family: Callable[[], Iterable[psutil.Process]], grace: float) -> int:
    first = list(family())
    started = time.monotonic()
    if grace > 0:
        _signal(first, signal.SIGTERM)
    while grace > 0 and time.monotonic() < started + grace and list(family()):
        time.sleep(_PAUSE)
    while (left := list(family())) and time.monotonic() < started + grace + _STUBBORN:
        _signal(left, signal.SIGKILL)
        time.sleep(_PAUSE)
    return len(first)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
