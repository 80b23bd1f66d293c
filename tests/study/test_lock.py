"""One writer per study, and nobody after it is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.errors import StudyLockedError
from evomerge.study.lock import Lock, holder, is_held

HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom evomerge.study.lock import Lock\n"
    "lock = Lock(Path(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(60)"
)


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    first = Lock(tmp_path)
    with pytest.raises(StudyLockedError, match=f"process {os.getpid()} on .*, since 20"):
        Lock(tmp_path)
    first.release()
    Lock(tmp_path).release()


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_held(tmp_path)
        with pytest.raises(StudyLockedError, match=f"process {process.pid} "):
            Lock(tmp_path)
        process.send_signal(signal.SIGKILL)
    Lock(tmp_path, wait_seconds=5).release()
    assert not is_held(tmp_path)


def test_waiting_ends_when_the_first_lets_go(tmp_path: Path) -> None:
    first = Lock(tmp_path)
    with pytest.raises(StudyLockedError):
        Lock(tmp_path, wait_seconds=0.1)
    first.release()
    first.release()
    Lock(tmp_path, wait_seconds=0.1).release()


def test_an_unsigned_lock_still_names_somebody(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("{")
    assert holder(tmp_path) == "another process"
    assert not is_held(tmp_path / "nowhere")
