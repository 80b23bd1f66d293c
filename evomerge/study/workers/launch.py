"""A worker's process and the connection with it, from start to a sure end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import uuid
from pathlib import Path

from evomerge import faults
from evomerge.study.workers.messages import Message, Setup, decode, encode
from evomerge.study.workers.processes import MARKER, kill_marked, marker_of

_CHUNK = 1 << 16
_SEND = 60.0  # seconds for a worker that is ready to read a job
_STUBBORN = 10.0  # seconds beyond the grace after which a guard is taken to be gone
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerProcess:
    """A running worker, behind its guard. Everything it starts ends with it."""

    def __init__(
        self,
        number: int,
        setup: Setup,
        folder: Path,
        *,
        device: str | None,
        grace: float,
        replacement: bool,
    ) -> None:
        """Start it and send its setup.

        Args:
            number: of its slot.
            folder: the study's; output goes to ``workers/<number>.log`` in it.
            device: for CUDA_VISIBLE_DEVICES; None leaves that as it is.
            grace: seconds between SIGTERM and SIGKILL at its end.
            replacement: not the slot's first; a rehearsed crash (`evomerge.faults`) is for the
                first only, or it would happen in every replacement.
        """
        self._grace = grace
        self._marker = marker_of(folder, number, uuid.uuid4().hex)
        self._buffer = b""
        self.connection, theirs = socket.socketpair()
        self.connection.setblocking(False)
        log = folder / "workers" / f"{number}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = _environment(self._marker, setup.threads, device, replacement=replacement)
        module = [sys.executable, "-P", "-m", "evomerge.study.workers.worker"]
        with theirs, log.open("ab") as into:
            self._process = subprocess.Popen(
                [*module, str(theirs.fileno()), str(grace)],
                stdin=subprocess.DEVNULL,
                stdout=into,
                stderr=into,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal is the coordinator's alone
            )
        self.send(setup)

    @property
    def code(self) -> int | None:
        """None while it lives; else as a shell says it, or negative if its guard was killed."""
        return self._process.poll()

    def send(self, message: Message) -> None:
        """Send; a worker that died or does not read shows by its end or by its clock."""
        with contextlib.suppress(OSError):
            self.connection.settimeout(_SEND)
            self.connection.sendall(encode(message))
            self.connection.setblocking(False)

    def received(self) -> list[Message]:
        """All whole messages that have arrived; never waits."""
        while True:
            try:
                chunk = self.connection.recv(_CHUNK)
            except OSError:
                break
            if not chunk:
                break
            self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        return [decode(line) for line in lines]

    def ask_to_end(self) -> None:
        """Tell the guard to end the worker and all its descendants; returns at once."""
        if self.code is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)  # had it been stopped

    def wait_for_end(self) -> None:
        """Wait for the end that was asked for, force it if need be, and close the connection."""
        try:
            code = self._process.wait(self._grace + _STUBBORN)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
            self._process.kill()
            self._process.wait()
        if code < 0:  # a guard that was killed itself leaves what it guarded
            kill_marked(self._marker)
        self.connection.close()


def _environment(
    marker: str, threads: int, device: str | None, *, replacement: bool
) -> dict[str, str]:
    environment = dict(os.environ)
    if replacement:
        environment.pop(faults.VARIABLE, None)
    environment |= {MARKER: marker, "PYTHONPATH": _search_path()}
    fixed = {"PYTHONHASHSEED": "0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    for name, value in (fixed | dict.fromkeys(_THREADS, str(threads))).items():
        environment.setdefault(name, value)
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    return environment


def _search_path() -> str:
    """PYTHONPATH that finds this very evomerge, wherever the coordinator has it from."""
    home = str(Path(__file__).resolve().parents[2])
    given = os.environ.get("PYTHONPATH", "")
    if home == sysconfig.get_paths()["purelib"]:
        return given
    return os.pathsep.join(part for part in (given, home) if part)
