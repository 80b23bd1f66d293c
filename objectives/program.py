"""Runs a program to its end: within its time and a bound on its output, leaving nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from evomerge.errors import ObjectiveError

MOST_OUTPUT = 64 << 20
"""Bytes of standard output."""
_TAIL = 1 << 14  # bytes of standard error that are kept for the reason
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_DRAIN = 5.0  # seconds for what is left in the pipes once all processes have ended
_LOOK = 0.02  # seconds between two looks


@dataclass(frozen=True)
class Program:
    """What is run.

    Attributes:
        words: the program and its arguments; no shell reads them.
        folder: in which it runs.
        environment: all of it.
        seconds: it may take; None for no limit.
    """

    words: Sequence[str]
    folder: Path
    environment: Mapping[str, str]
    seconds: float | None

    def run(self) -> bytes:
        """Its standard output; standard error goes on to this process's, as it comes.

        The process group is ended before this returns, whatever became of the program.

        Raises:
            ObjectiveError: if it cannot be started, fails, takes too long or prints too much.
        """
        try:
            process = subprocess.Popen(
                self.words,
                cwd=self.folder,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise ObjectiveError(f"{self.words[0]} cannot be started: {error.strerror}") from error
        assert process.stdout is not None and process.stderr is not None
        out, err = _Pipe(process.stdout, keep=MOST_OUTPUT), _Pipe(process.stderr, keep=None)
        try:
            trouble = self._wait(process, out)
        finally:
            _end_group(process)
        out.join()
        err.join()
        if trouble is None and process.returncode:
            trouble = _status(process.returncode, err.tail)
        if trouble is not None:
            raise ObjectiveError(f"{Path(self.words[0]).name} {trouble}")
        return bytes(out.kept)

    def _wait(self, process: subprocess.Popen[bytes], out: _Pipe) -> str | None:
        """Until it ends, or must; what is wrong with it."""
        started = time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK)
                return _TOO_MUCH if out.full else None
            if out.full:
                return _TOO_MUCH
            if self.seconds is not None and time.monotonic() > started + self.seconds:
                return f"took longer than its limit of {self.seconds:g} s"


_TOO_MUCH = f"printed more than {MOST_OUTPUT >> 20} MiB"


class _Pipe:
    """Reads a pipe to its end beside us: keeps its beginning, or passes it on and keeps its end."""

    def __init__(self, pipe: IO[bytes], *, keep: int | None) -> None:
        self.kept = bytearray()
        self.tail = b""
        self.full = False
        self._keep = keep
        self._pipe = pipe
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end, but not for a process that has left the group and holds the pipe."""
        self._thread.join(_DRAIN)
        if not self._thread.is_alive():
            self._pipe.close()

    def _read(self) -> None:
        while chunk := os.read(self._pipe.fileno(), 1 << 16):
            if self._keep is None:
                sys.stderr.write(chunk.decode(errors="replace"))
                self.tail = (self.tail + chunk)[-_TAIL:]
            elif len(self.kept) + len(chunk) > self._keep:
                self.full = True
            else:
                self.kept += chunk


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to a program that still runs, then SIGKILL to all that is left of its group."""
    if process.poll() is None:
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    _signal(process.pid, signal.SIGKILL)
    process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _status(code: int, tail: bytes) -> str:
    """What an exit status says, with the last line of standard error."""
    lines = tail.decode(errors="replace").strip().splitlines()
    said = f": {lines[-1]}" if lines else ""
    if code < 0:
        hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{hint}{said}"
    return f"ended with status {code}{said}"
