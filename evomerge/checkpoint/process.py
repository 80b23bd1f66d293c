"""Which process a leftover belongs to, and whether that process still lives.

A process id alone is used again; with its start time it names one process of one boot. Processes
of other machines or containers that share a file system cannot be seen at all, so there are three
answers: alive, dead, and not to be known.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

_MARK = re.compile(r"(\d{1,10})-(\d{1,20})-([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """One process of one boot of one machine.

    Attributes:
        pid: its number.
        start: when it started, in clock ticks since the boot (elsewhere than on Linux: in
            milliseconds since 1970).
        boot: digest of the boot's id, 8 hex digits.
        space: digest of the process-number space (containers have their own).
        host: digest of the host's name.
    """

    pid: int
    start: int
    boot: str
    space: str
    host: str

    def __str__(self) -> str:
        return f"{self.pid}-{self.start}-{self.boot}-{self.space}-{self.host}"

    @classmethod
    def parse(cls, text: str) -> ProcessMark | None:
        """The inverse of `str`; None for anything else."""
        match = _MARK.fullmatch(text)
        if match is None:
            return None
        pid, start, boot, space, host = match.groups()
        return cls(int(pid), int(start), boot, space, host)

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None when it cannot be seen from here."""
        here = this_process()
        if self.boot != here.boot:
            return False if self.host == here.host else None
        if self.space != here.space:
            return None
        start = _start(self.pid)
        return None if start is None and _is_hidden(self.pid) else start == self.start


def this_process() -> ProcessMark:
    """The mark of the calling process."""
    return _mark(os.getpid())


@cache
def _mark(pid: int) -> ProcessMark:
    """Keyed by pid, so that a forked child makes its own."""
    boot, space = _boot_and_space()
    start = _start(pid)
    return ProcessMark(
        pid, start or 0, _digest(boot), _digest(space), _digest(socket.gethostname())
    )


def _boot_and_space() -> tuple[str, str]:
    """Both are empty elsewhere than on Linux, where the start alone, a date, tells boots apart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "", ""


def _start(pid: int) -> int | None:
    """When a living process started; None when there is none.

    Linux: field 22 of /proc/PID/stat, which does not move when the clock is set.
    """
    if not Path("/proc/self/stat").exists():
        return _start_elsewhere(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _start_elsewhere(pid: int) -> int | None:
    try:
        return round(psutil.Process(pid).create_time() * 1000)
    except psutil.Error:
        return None


def _is_hidden(pid: int) -> bool:
    """Whether another user's process of this number runs, which /proc may be told not to show."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
