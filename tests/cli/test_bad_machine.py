"""What the machine does to a command: full disks, locks, closed pipes, signals, bad user code."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest

from evomerge.study import database as database_module

if TYPE_CHECKING:
    from conftest import World

EVOMERGE = f"{sys.executable} -m evomerge"
UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]


def may_mount() -> bool:
    """Whether this process may have a mount namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    probe = [*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(probe, capture_output=True).returncode == 0


needs_mounts = pytest.mark.skipif(not may_mount(), reason="this user may not mount a tmpfs")


def on_disk(world: World, options: str, script: str) -> list[str]:
    """Lines that a script says, with a small file system of its own at ``disk``."""
    (world / "disk").mkdir()
    mount = f"mount -t tmpfs -o {options} none disk && "
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", mount + "{ " + script + "; } 2>&1"],
        cwd=world.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout
    return done.stdout.splitlines()


@needs_mounts
def test_a_merge_that_does_not_fit_leaves_nothing(world: World) -> None:
    said = on_disk(
        world, "size=8k", f"{EVOMERGE} merge recipe.yaml disk/out; echo $?; ls -A disk | wc -l"
    )
    assert said[0].startswith("error: disk/out: cannot be written: No space left on device")
    assert said[1:] == ["what was written of it was removed", "4", "0"]


@needs_mounts
def test_a_study_that_does_not_fit_begins_when_there_is_space(world: World) -> None:
    world.edit("study: study", "study: disk/study")
    said = "\n".join(
        on_disk(
            world,
            "size=64k",
            f"{EVOMERGE} ask campaign.yaml; echo first $?; mount -o remount,size=2m disk;"
            f"{EVOMERGE} ask campaign.yaml --json; echo second $?",
        )
    )
    assert "no space left for the study's database" in said
    assert "free some space, then run the same command again" in said
    assert "first 4" in said
    assert '"trial": 0' in said
    assert "second 0" in said


@needs_mounts
def test_a_disk_that_fills_up_loses_nothing_that_was_told(world: World) -> None:
    world.edit("study: study", "study: disk/study")
    steps = [
        f"{EVOMERGE} ask campaign.yaml",
        f"{EVOMERGE} tell campaign.yaml 0 near=1 small=2",
        "dd if=/dev/zero of=disk/filler bs=4k 2>/dev/null",
        f"{EVOMERGE} run campaign.yaml; echo full $?",
        "rm disk/filler",
        f"{EVOMERGE} status campaign.yaml | grep done",
        f"{EVOMERGE} run campaign.yaml --trials 5 >table; echo freed $?",
        f"{EVOMERGE} verify campaign.yaml; echo verified $?",
    ]
    said = "\n".join(on_disk(world, "size=4m", "; ".join(steps)))
    assert "full 4" in said, said
    assert "no space left" in said
    assert "done              1" in said
    assert "resuming after" in said
    assert "freed 0" in said, said
    assert "verified 0" in said


@needs_mounts
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("merge recipe.yaml disk/out", "disk/out: cannot be written: Read-only file system"),
        ("init base math -o disk/c.yaml", "disk/c.yaml: cannot be written: Read-only file system"),
        ("run campaign.yaml", "disk is not writable"),
        ("report other/study -o disk/r.html", "cannot be written: Read-only file system"),
    ],
)
def test_a_read_only_place_is_named(world: World, words: str, says: str) -> None:
    world.edit("study: study", "study: other/study")
    assert world.run("ask", "campaign.yaml").code == 0
    world.edit("study: other/study", "study: disk/study")
    said = on_disk(world, "size=8k,ro", f"{EVOMERGE} {words}; echo $?; ls -A disk | wc -l")
    assert said[0].startswith("error: ")
    assert says in said[0]
    assert said[-2:] == ["4", "0"]


def test_a_file_that_may_not_grow_is_a_full_disk(world: World) -> None:
    """As a quota's: writing beyond the limit fails."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))

    before = world.listing()
    said = world.process("merge", "recipe.yaml", "out", preexec_fn=limit)
    assert said.code == 4, said
    assert "error: out: cannot be written: File too large" in said.err
    assert "Traceback" not in said.err
    assert world.listing() == before


def test_a_database_that_another_program_holds_is_waited_for_then_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "WAIT_SECONDS", 0.2)
    assert world.run("ask", "campaign.yaml").code == 0
    script = "import sqlite3\nc = sqlite3.connect('study/study.db', isolation_level=None)\n"
    script += "c.execute('BEGIN EXCLUSIVE'); print('held', flush=True); input()"
    process = world.start_python([sys.executable, "-c", script])
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    said = world.run("tell", "campaign.yaml", "0", "near=1", "small=1")
    assert said.code == 4
    assert "another process keeps the study's database busy" in said.err
    assert "everything that was acknowledged before is kept" in said.err


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise RuntimeError('no licence')", "cannot be imported: RuntimeError: no licence"),
        ("near = 3", "score.py:near is a int; a function is wanted"),
        ("def near(parameters): ...", "cannot be called as (subject, items)"),
    ],
    ids=["raises", "is a number", "takes one argument"],
)
def test_user_code_that_cannot_be_called_ends_a_run_that_resumes(
    world: World, code: str, says: str
) -> None:
    """The user's code runs in workers only, so the study is there when it turns out."""
    good = (world / "score.py").read_text()
    world.write("score.py", f"{good}\n{code}\n")
    said = world.run("run", "campaign.yaml")
    assert said.code == 2, said
    assert says in said.text
    assert "everything told is kept; next: evomerge run" in said.text
    assert "Traceback" not in said.text
    world.write("score.py", good)
    assert world.run("run", "campaign.yaml", "--trials", "4").code == 0


def test_a_reader_that_leaves_is_no_error(world: World) -> None:
    script = f"{EVOMERGE} plugins --json | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=world.folder)
    first, code = done.stdout.splitlines()
    assert first == "["
    assert code in ("0", "141")  # head may be gone before or after everything was written
    assert done.stderr == ""


def test_a_reader_that_was_never_there_is_no_error(world: World) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        said = world.process("plugins", "--json", stdout=writer)
    finally:
        os.close(writer)
    assert said.code == 141
    assert said.err == ""


def unread(pipe: Any) -> int:
    """Bytes in a pipe that its reader has not taken yet."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count)


def test_ctrl_c_before_anything_runs_says_so(world: World) -> None:
    """``tell -`` waits for its scores; Ctrl-C leaves the study as it was."""
    assert world.run("ask", "campaign.yaml").code == 0
    process = world.start("tell", "campaign.yaml", "0", "-")
    process.stdin.write("{")
    process.stdin.flush()
    while process.poll() is None and unread(process.stdin):
        time.sleep(0.01)  # until it reads
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted"
    assert world.run("status", "campaign.yaml", "--json").json["pending"] == 1


def test_the_traceback_is_only_for_those_who_ask(world: World) -> None:
    said = world.run("--debug", "status", "nothing.yaml")
    assert said.code == 2
    assert "Traceback" in said.err
    assert "no such file" in said.err
