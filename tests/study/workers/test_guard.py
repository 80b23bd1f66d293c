"""Nothing that a worker starts outlives it, however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from evomerge.study.workers.processes import MARKER, kill_marked, marker_of

# A worker whose objective starts a process in a session of its own, and then goes on or leaves.
SCRIPT = """
import subprocess, sys, os, time
from evomerge.study.workers.guard import fork_guarded
fork_guarded(int(sys.argv[1]), grace=0.2)
deep = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time;" \
       "time.sleep(60)'], start_new_session=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", deep], start_new_session=True)
open(sys.argv[2], "w").close()
if sys.argv[3] == "leave":
    while not os.path.exists(sys.argv[2] + ".leave"):
        time.sleep(0.01)
    os._exit(7)
time.sleep(60)
"""


def family(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(MARKER) == marker
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


class Started:
    def __init__(self, folder: Path, manner: str = "stay") -> None:
        self.marker = marker_of(folder, 0, "x")
        self.ours, theirs = socket.socketpair()
        flag = folder / "started"
        with theirs:
            self.guard = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, str(theirs.fileno()), str(flag), manner],
                pass_fds=[theirs.fileno()],
                env=os.environ | {MARKER: self.marker},
                start_new_session=True,
            )
        assert eventually(flag.exists)
        assert eventually(lambda: len(family(self.marker)) == 4)  # guard, worker, child, grandchild

    def close(self) -> None:
        self.ours.close()
        self.guard.kill()
        self.guard.wait()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    with closing(Started(tmp_path)) as started:
        yield started


def test_the_end_of_the_coordinator_ends_all(started: Started) -> None:
    started.ours.close()
    started.guard.wait(60)
    assert family(started.marker) == []


def test_a_request_to_end_ends_all(started: Started) -> None:
    started.guard.terminate()
    assert started.guard.wait(60) == 128 + signal.SIGTERM
    assert family(started.marker) == []


def test_a_killed_worker_takes_its_descendants_along_and_its_guard_says_how(
    started: Started,
) -> None:
    (worker,) = psutil.Process(started.guard.pid).children()
    worker.kill()
    assert started.guard.wait(60) == 128 + signal.SIGKILL
    assert family(started.marker) == []


def test_a_worker_that_leaves_takes_its_descendants_along(tmp_path: Path) -> None:
    with closing(Started(tmp_path, "leave")) as started:
        (tmp_path / "started.leave").touch()
        assert started.guard.wait(60) == 7
        assert family(started.marker) == []


def test_without_its_guard_a_worker_dies_and_the_marker_finds_the_rest(started: Started) -> None:
    started.guard.kill()
    started.guard.wait()
    assert eventually(lambda: len(family(started.marker)) == 2)
    assert kill_marked(started.marker) == 2
    assert family(started.marker) == []


def test_all_workers_of_a_study_are_found_by_its_folder(started: Started, tmp_path: Path) -> None:
    assert kill_marked(marker_of(tmp_path / "other"), prefix=True) == 0
    assert kill_marked(marker_of(tmp_path), prefix=True) == 4
    assert started.guard.wait(60) == -signal.SIGKILL
