"""Processes are told apart by number, start and boot."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from evomerge.checkpoint.process import ProcessMark, this_process


def test_a_mark_is_written_and_read_back() -> None:
    mark = this_process()
    assert mark.pid == os.getpid()
    assert ProcessMark.parse(str(mark)) == mark


@pytest.mark.parametrize("text", ["", "12", "12-34", "a-1-00000000-00000000-00000000", "1-2-3-4-5"])
def test_other_text_is_no_mark(text: str) -> None:
    assert ProcessMark.parse(text) is None


def test_this_process_lives_and_one_of_another_start_does_not() -> None:
    mark = this_process()
    assert mark.is_alive() is True
    assert replace(mark, start=mark.start + 1).is_alive() is False


def test_a_process_of_an_earlier_boot_is_dead() -> None:
    assert replace(this_process(), boot="00000000").is_alive() is False


def test_processes_of_other_machines_and_containers_cannot_be_known() -> None:
    mark = this_process()
    assert replace(mark, space="00000000").is_alive() is None
    assert replace(mark, boot="00000000", host="00000000").is_alive() is None


def test_a_process_that_only_its_user_may_see_cannot_be_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(pid: int, signal: int) -> None:
        raise PermissionError

    hidden = replace(this_process(), pid=2**22 + 1)
    assert hidden.is_alive() is False
    monkeypatch.setattr(os, "kill", forbidden)
    assert hidden.is_alive() is None


def test_a_child_has_a_mark_of_its_own_until_it_ends() -> None:
    code = (
        "from evomerge.checkpoint.process import this_process\n"
        "print(this_process(), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        mark = ProcessMark.parse(child.stdout.readline().strip())
        assert mark is not None
        assert mark.pid == child.pid
        assert mark.is_alive() is True
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert mark.is_alive() is False  # a zombie: ended, not yet waited for
    assert mark.is_alive() is False


def test_a_forked_child_does_not_inherit_the_mark() -> None:
    code = (
        "import os; from evomerge.checkpoint.process import this_process as mark\n"
        "mine = mark()\n"
        "if os.fork() == 0: os._exit(mark().pid != os.getpid())\n"
        "assert os.wait()[1] == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
