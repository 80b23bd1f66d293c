"""The database: transactions whole or not at all, and what its errors mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from evomerge.errors import (
    DiskFullError,
    StudyDamagedError,
    StudyError,
    StudyLockedError,
    StudyMismatchError,
)
from evomerge.study import database as module
from evomerge.study import filesystem
from evomerge.study.database import Database
from evomerge.study.schema import APPLICATION_ID, MIGRATIONS

EVENT = "INSERT INTO events (at, kind) VALUES (0, ?)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with closing(Database(path, mode="write")) as opened:
        with opened.transaction("create"):
            opened.migrate()
        yield opened


def count(database: Database) -> int:
    row = database.row("SELECT count(*) FROM events")
    assert row is not None
    return int(row[0])


def test_a_new_database_carries_its_mark_and_version(database: Database) -> None:
    assert database.row("PRAGMA application_id") == (APPLICATION_ID,)
    assert database.version == len(MIGRATIONS)
    assert database.problems() == []


def test_a_committed_transaction_is_synchronised(database: Database) -> None:
    assert database.row("PRAGMA journal_mode") == ("wal",)
    assert database.row("PRAGMA synchronous") == (2,)  # FULL


def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction("tell"):
        database.execute(EVENT, ["told"])
        _ = 1 / 0
    assert count(database) == 0


def test_an_inner_transaction_is_part_of_the_outer(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction("tell"):
        with database.transaction("begin"):
            database.execute(EVENT, ["began"])
        _ = 1 / 0
    assert count(database) == 0


def test_a_reader_sees_what_is_committed_while_a_writer_writes(
    database: Database, path: Path
) -> None:
    with closing(Database(path, mode="read")) as reader, database.transaction("tell"):
        database.execute(EVENT, ["told"])
        assert count(reader) == 0
    assert count(database) == 1


def test_a_snapshot_is_one_moment(database: Database, path: Path) -> None:
    with closing(Database(path, mode="read")) as reader:
        with reader.snapshot():
            assert count(reader) == 0
            with database.transaction("tell"):
                database.execute(EVENT, ["told"])
            assert count(reader) == 0
        assert count(reader) == 1


def test_a_reader_cannot_write(database: Database, path: Path) -> None:
    with closing(Database(path, mode="read")) as reader, pytest.raises(StudyError):
        reader.execute(EVENT, ["told"])


def test_a_frozen_folder_can_be_read(database: Database, path: Path, tmp_path: Path) -> None:
    with database.transaction("tell"):
        database.execute(EVENT, ["told"])
    frozen = tmp_path / "frozen"
    frozen.mkdir()
    database.copy_to(frozen / "study.db")
    frozen.chmod(0o555)
    try:
        with closing(Database(frozen / "study.db", mode="read")) as reader:
            assert count(reader) == 1
    finally:
        frozen.chmod(0o755)


def test_a_full_disk_keeps_what_was_committed(database: Database) -> None:
    pages = database.row("PRAGMA page_count")
    assert pages is not None
    database.row(f"PRAGMA max_page_count = {pages[0] + 1}")
    with pytest.raises(DiskFullError, match="no space"), database.transaction("tell"):
        for _ in range(1000):
            database.execute(EVENT, ["x" * 1000])
    assert count(database) == 0
    database.row("PRAGMA max_page_count = 100000")
    with database.transaction("tell"):
        database.execute(EVENT, ["told"])
    assert count(database) == 1


def test_a_text_file_is_no_database(path: Path) -> None:
    path.write_text("not a database, but long enough to have a header of a hundred bytes " * 3)
    with pytest.raises(StudyDamagedError, match="damaged"):
        Database(path, mode="write")
    assert path.read_text().startswith("not a database")


@pytest.mark.parametrize("mode", ["read", "write"])
def test_somebody_elses_database_is_left_alone(path: Path, mode: Literal["read", "write"]) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(StudyDamagedError, match="not an evomerge study"):
        Database(path, mode=mode)
    assert path.read_bytes() == before


def test_a_damaged_page_is_found_and_named(database: Database, path: Path) -> None:
    with database.transaction("tell"):
        for _ in range(500):
            database.execute(EVENT, ["x" * 500])
    database.close()
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with (
        pytest.raises(StudyDamagedError, match="damaged") as caught,
        closing(Database(path, mode="read")) as reader,
    ):
        reader.rows("SELECT * FROM events")
    assert "verify" in str(caught.value)


def test_a_missing_database_is_said_so(path: Path) -> None:
    with pytest.raises(StudyError, match="no study here"):
        Database(path, mode="read")


def test_a_newer_schema_is_refused_to_writers(database: Database, path: Path) -> None:
    database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StudyMismatchError, match="newer"):
        database.check_version(readable_by=1)
    with closing(Database(path, mode="read")) as reader:
        reader.check_version(readable_by=len(MIGRATIONS))
        with pytest.raises(StudyMismatchError, match="newer"):
            reader.check_version(readable_by=len(MIGRATIONS) + 1)


def test_a_writer_outside_is_waited_for_and_then_named(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    with (
        closing(Database(path, mode="write")) as other,
        closing(Database(path, mode="write")) as third,
        other.transaction("tell"),
        pytest.raises(StudyLockedError, match="busy"),
        third.transaction("tell"),
    ):
        pass


def test_a_copy_is_whole_and_one_file(database: Database, tmp_path: Path) -> None:
    with database.transaction("tell"):
        database.execute(EVENT, ["told"])
    target = tmp_path / "backups" / "copy.db"
    target.parent.mkdir()
    database.copy_to(target)
    database.copy_to(target)
    assert [path.name for path in target.parent.iterdir()] == ["copy.db"]
    with closing(Database(target, mode="read")) as copy:
        assert (count(copy), copy.problems()) == (1, [])


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:35 / /home rw shared:20 - nfs4 server:/home rw,vers=4.2
41 40 0:36 / /home/a\\040b/local rw - xfs /dev/sdb rw
42 22 0:37 / /mnt/x rw - fuse.sshfs host: rw
""".splitlines()


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/tmp", "ext4"),
        ("/home/me/study", "nfs4"),
        ("/home", "nfs4"),
        ("/homes", "ext4"),
        ("/home/a b/local/x", "xfs"),
        ("/mnt/x/y", "fuse.sshfs"),
    ],
)
def test_the_deepest_mount_says_the_kind_of_file_system(folder: str, kind: str) -> None:
    assert filesystem.mounted(MOUNTS, Path(folder)) == kind


def test_a_network_file_system_gets_a_rollback_journal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "kind_of", lambda folder: "nfs4")
    with closing(Database(path, mode="write")) as database:
        assert database.row("PRAGMA journal_mode") == ("delete",)
