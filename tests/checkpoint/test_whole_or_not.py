"""Files and folders appear whole or not at all, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evomerge.checkpoint import files
from evomerge.checkpoint.files import PART, SET_ASIDE, staged_folder, sweep, write_file
from evomerge.checkpoint.process import this_process
from evomerge.errors import DiskFullError, StudyError, UsageError

WRITE = """
import sys
from pathlib import Path
from evomerge.checkpoint.files import staged_folder, write_file
target = Path(sys.argv[1])
if sys.argv[2] == "file":
    write_file(target, b"new")
else:
    with staged_folder(target, replace=sys.argv[2] == "replace") as folder:
        (folder / "content").write_text("new")
"""


def killed_at(point: str, target: Path, how: str) -> None:
    """Write in a process that dies at the fault point."""
    run = subprocess.run(
        [sys.executable, "-c", WRITE, str(target), how],
        env={**os.environ, "EVOMERGE_FAULT": point},
        check=False,
    )
    assert run.returncode == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    write_file(tmp_path / "x", b"old")
    write_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770)])
def test_modes_come_from_the_umask(tmp_path: Path, mask: int, file: int, folder: int) -> None:
    with umask(mask):
        write_file(tmp_path / "x", b"")
        with staged_folder(tmp_path / "y"):
            pass
    assert mode(tmp_path / "x") == file
    assert mode(tmp_path / "y") == folder


def test_names_may_be_as_long_as_names_may_be(tmp_path: Path) -> None:
    write_file(tmp_path / ("日" * 85), b"x")
    with staged_folder(tmp_path / ("d" * 255)):
        pass
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize(
    ("point", "content"), [("file.before-rename", "old"), ("file.after-rename", "new")]
)
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, point: str, content: str
) -> None:
    (tmp_path / "x").write_text("old")
    killed_at(point, tmp_path / "x", "file")
    assert (tmp_path / "x").read_text() == content
    sweep(tmp_path)
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("point", "there"), [("checkpoint.before-rename", []), ("checkpoint.after-rename", ["y"])]
)
def test_a_killed_writer_leaves_no_folder_or_a_whole_one(
    tmp_path: Path, point: str, there: list[str]
) -> None:
    killed_at(point, tmp_path / "y", "new")
    swept = sweep(tmp_path)
    assert len(swept) == 1 - len(there)
    assert names(tmp_path) == there
    assert [p.read_text() for p in tmp_path.glob("y/content")] == ["new"] * len(there)


@pytest.mark.parametrize(
    ("point", "content"),
    [
        ("checkpoint.before-rename", "old"),
        ("checkpoint.between-renames", "old"),
        ("checkpoint.after-rename", "new"),
    ],
)
def test_a_killed_replacement_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, point: str, content: str
) -> None:
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "content").write_text("old")
    killed_at(point, tmp_path / "y", "replace")
    sweep(tmp_path)
    assert names(tmp_path) == ["y"]
    assert (tmp_path / "y" / "content").read_text() == content


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyError), staged_folder(tmp_path / "y") as folder:
        (folder / "half").write_text("x")
        raise KeyError
    assert names(tmp_path) == []


def test_an_existing_target_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "mine").touch()
    with pytest.raises(UsageError, match="exists already"), staged_folder(tmp_path / "y"):
        pytest.fail("the body must not run")
    assert names(tmp_path) == ["y"]
    assert names(tmp_path / "y") == ["mine"]


def test_a_target_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"), staged_folder(tmp_path / "y"):
        (tmp_path / "y").write_text("mine")
    assert (tmp_path / "y").read_text() == "mine"
    assert names(tmp_path) == ["y"]


@pytest.mark.parametrize("target", [".", "a/..", "/"])
def test_a_target_without_a_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    refusal = pytest.raises(UsageError, match="no name of its own")
    with refusal, staged_folder(Path(target), replace=True):
        pytest.fail("the body must not run")
    assert names(tmp_path) == ["a"]


def test_an_empty_folder_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "y").mkdir()
    with staged_folder(tmp_path / "y") as folder:
        (folder / "content").touch()
    assert names(tmp_path / "y") == ["content"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_replace_puts_the_new_folder_in_the_place_of_anything(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / "y" / "sub").mkdir(parents=True)
    elif kind == "file":
        (tmp_path / "y").touch()
    else:
        (tmp_path / "y").symlink_to("nowhere")
    with staged_folder(tmp_path / "y", replace=True) as folder:
        (folder / "content").touch()
    assert names(tmp_path) == ["y"]
    assert names(tmp_path / "y") == ["content"]


def test_the_folders_above_the_target_are_made(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "a" / "b" / "y"):
        pass
    assert (tmp_path / "a" / "b" / "y").is_dir()


def test_everything_is_on_the_disk_before_the_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, rename = os.fsync, Path.rename

    def recorded_sync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def recorded_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(Path, "rename", recorded_rename)
    with staged_folder(tmp_path / "y") as folder:
        (folder / "sub").mkdir()
        (folder / "top").touch()
        (folder / "sub" / "deep").touch()
    assert events == ["top", folder.name, "deep", "sub", "rename", tmp_path.name]


def failing_from(call: int, code: int) -> Callable[..., None]:
    """An fsync that fails from its n-th call on."""
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise OSError(code, os.strerror(code))

    return fsync


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", [1, 2])
def test_a_full_disk_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: int
) -> None:
    (tmp_path / "x").write_text("old")
    monkeypatch.setattr(os, "fsync", failing_from(call, code))
    with pytest.raises(DiskFullError) as caught:
        write_file(tmp_path / "x", b"new")
    assert caught.value.exit_code == 4
    assert caught.value.place == str(tmp_path / "x")
    assert (tmp_path / "x").read_text() == ("old" if call == 1 else "new")
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("call", [1, 2])
def test_a_full_disk_leaves_no_half_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing_from(call, errno.ENOSPC))
    with pytest.raises(DiskFullError, match="make room"), staged_folder(tmp_path / "y") as folder:
        (folder / "content").touch()
    assert names(tmp_path) == []


def test_a_full_disk_in_the_body_is_told_the_same_way(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError) as caught, staged_folder(tmp_path / "y") as folder:
        (folder / "half").touch()
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.place == str(tmp_path / "y")
    assert caught.value.kept == "what was written of it was removed"
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "y") as folder:
        (folder / "none").read_text()
    assert names(tmp_path) == []


def test_other_trouble_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be written: No such file"):
        write_file(tmp_path / "none" / "x", b"")
    (tmp_path / "file").touch()
    with (
        pytest.raises(StudyError, match="cannot be written"),
        staged_folder(tmp_path / "file" / "y"),
    ):
        pass


def test_file_systems_that_cannot_flush_folders_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing_from(2, errno.EINVAL))
    write_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


def leftover(folder: Path, owner: str, ending: str = PART) -> Path:
    path = folder / f".y.{owner}.0123abcd{ending}"
    path.mkdir()
    (path / "half").touch()
    return path


def dead() -> str:
    """The mark of a process that has ended."""
    code = "from evomerge.checkpoint.process import this_process; print(this_process())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_leftovers_of_the_living_stay(tmp_path: Path) -> None:
    path = leftover(tmp_path, str(this_process()))
    assert sweep(tmp_path) == ()
    assert path.exists()


def test_leftovers_of_the_dead_go(tmp_path: Path) -> None:
    path = leftover(tmp_path, dead())
    assert sweep(tmp_path) == (path,)
    assert names(tmp_path) == []


def test_leftovers_of_another_machine_go_after_a_day_without_change(tmp_path: Path) -> None:
    path = leftover(tmp_path, "1-1-00000000-00000000-00000000")
    assert sweep(tmp_path) == ()
    past = time.time() - files.FOREIGN_AGE - 60
    os.utime(path, (past, past))
    assert sweep(tmp_path) == ()  # a file in it is younger
    os.utime(path / "half", (past, past))
    assert sweep(tmp_path) == (path,)


def test_what_was_set_aside_gets_its_name_back_only_when_it_is_free(tmp_path: Path) -> None:
    owner = dead()
    leftover(tmp_path, owner, SET_ASIDE)
    assert sweep(tmp_path) == ()
    assert names(tmp_path) == ["y"]
    leftover(tmp_path, owner, SET_ASIDE)
    assert len(sweep(tmp_path)) == 1
    assert names(tmp_path) == ["y"]


def test_other_files_are_never_swept(tmp_path: Path) -> None:
    mark = dead()
    others = [
        f"y.{mark}.0123abcd{PART}",
        f".y.{mark}.0123abcd.part",
        f".{mark}{PART}",
        f".y.1-2-3.0123abcd{PART}",
        PART,
        "model.safetensors",
    ]
    for name in others:
        (tmp_path / name).touch()
    assert sweep(tmp_path) == ()
    assert names(tmp_path) == sorted(others)


def test_sweeping_where_nothing_is_does_nothing(tmp_path: Path) -> None:
    assert sweep(tmp_path / "none") == ()


def test_a_staged_folder_sweeps_first(tmp_path: Path) -> None:
    leftover(tmp_path, dead())
    with staged_folder(tmp_path / "z"):
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == ["z"]
