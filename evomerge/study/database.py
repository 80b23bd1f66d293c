"""A study's SQLite file: how it is opened, changed in transactions, and what its errors mean.

One process writes (`evomerge.study.lock`), any number read. The file is in write-ahead mode with
full synchronisation, so a transaction that was committed survives a crash or a power cut, and
readers never wait for the writer; on network file systems, where write-ahead mode is unsafe, a
rollback journal is used instead.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from evomerge import faults
from evomerge.errors import DiskFullError, StudyDamagedError, StudyError, StudyMismatchError
from evomerge.errors import StudyLockedError as Locked
from evomerge.study import filesystem
from evomerge.study.schema import APPLICATION_ID, MIGRATIONS

Row = tuple[Any, ...]
WAIT_SECONDS = 10.0
"""How long a statement waits for another connection's short transaction."""

_FULL = (sqlite3.SQLITE_FULL,)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class Database:
    """One connection; its methods may be called from any thread, one transaction at a time."""

    def __init__(self, path: Path, *, mode: Literal["write", "read"]) -> None:
        """Opens an existing file, or with ``write`` creates it empty.

        Raises:
            StudyDamagedError: if it is no SQLite database, or no study.
            StudyMismatchError: if a newer evomerge made it.
            StudyError: if it cannot be opened.
        """
        self.path = path
        self.read_only = mode == "read"
        self._lock = threading.RLock()
        with self._translated():
            self._connection = _read_connection(path) if self.read_only else _connection(path)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA trusted_schema = OFF")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute("PRAGMA temp_store = MEMORY")
        self._check_kind()
        if not self.read_only:
            network = filesystem.is_network(self.path.parent)
            self._connection.execute(f"PRAGMA journal_mode = {'DELETE' if network else 'WAL'}")
            self._connection.execute("PRAGMA synchronous = FULL")

    def _check_kind(self) -> None:
        application = self._number("PRAGMA application_id")
        tables = self._number("SELECT count(*) FROM sqlite_master")
        if application != APPLICATION_ID and (application or tables or self.read_only):
            raise StudyDamagedError(
                "this SQLite database is not an evomerge study; it was left as it is",
                place=str(self.path),
            )

    def _number(self, sql: str) -> int:
        return int(self._connection.execute(sql).fetchone()[0])

    @property
    def version(self) -> int:
        """The schema's version in the file; 0 before the study is created."""
        with self._translated():
            return self._number("PRAGMA user_version")

    def check_version(self, readable_by: int | None = None) -> None:
        """Refuses a file of a newer evomerge, unless it is only read and says that it may be.

        Args:
            readable_by: the oldest version whose readers understand the file, as it says itself.
        """
        newest, found = len(MIGRATIONS), self.version
        if found > newest and not (self.read_only and readable_by and readable_by <= newest):
            raise StudyMismatchError(
                f"a newer evomerge made this study: schema {found}, this one knows {newest}",
                place=str(self.path),
                kept="nothing was changed",
                command="pip install --upgrade evomerge",
            )

    def migrate(self) -> None:
        """Runs the migrations that are missing, inside the caller's transaction."""
        for number in range(self.version + 1, len(MIGRATIONS) + 1):
            for statement in _statements(MIGRATIONS[number - 1]):
                self.execute(statement)
            self.execute(f"PRAGMA user_version = {number}")
        self.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query."""
        with self._lock, self._translated():
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        """The first row of a query; None if there is none."""
        with self._lock, self._translated():
            found: Row | None = self._connection.execute(sql, values).fetchone()
            return found

    def execute(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Runs a statement inside a transaction and gives the id of the row that it inserted."""
        with self._lock, self._translated():
            return self._connection.execute(sql, values).lastrowid or 0

    @contextmanager
    def transaction(self, name: str) -> Iterator[None]:
        """All or nothing: commits at the end, rolls back if the body raises.

        Inside another transaction it is a part of that one.

        Args:
            name: of the fault points ``study.<name>.before-commit`` and ``.after-commit``.
        """
        with self._lock, self._translated():
            if self._inside():
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                faults.reach(f"study.{name}.before-commit")
                self._connection.execute("COMMIT")
            except BaseException:
                if self._inside():
                    self._connection.execute("ROLLBACK")
                raise
            faults.reach(f"study.{name}.after-commit")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside belongs to one moment, whatever a writer does meanwhile."""
        with self._lock, self._translated():
            if self._inside():
                yield
                return
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                if self._inside():
                    self._connection.execute("COMMIT")

    def _inside(self) -> bool:
        return self._connection.in_transaction

    def copy_to(self, path: Path) -> None:
        """A consistent copy of the whole database, by SQLite's online backup; replaces `path`."""
        partial = path.with_name(f"{path.name}.partial")
        with self._lock, self._translated():
            partial.unlink(missing_ok=True)
            with closing(sqlite3.connect(partial)) as target:
                self._connection.backup(target)
                target.execute("PRAGMA journal_mode = DELETE")
            filesystem.synchronise(partial)
            faults.reach("study.backup.before-rename")
            partial.replace(path)
            filesystem.synchronise(path.parent)
            faults.reach("study.backup.after-rename")

    def problems(self) -> list[str]:
        """What SQLite's own integrity check finds; an empty list for a whole file."""
        with self._lock:
            try:
                found = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check")]
                broken = self._connection.execute("PRAGMA foreign_key_check").fetchall()
            except sqlite3.DatabaseError as error:
                return [str(error)]
        keys = [f"{row[0]}: row {row[1]} refers to a missing row of {row[2]}" for row in broken]
        return [line for line in found if line != "ok"] + keys

    def close(self) -> None:
        """Closes the connection; what was not committed is rolled back."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _study_error(error, self.path) from error


def _connection(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        path, isolation_level=None, timeout=WAIT_SECONDS, check_same_thread=False
    )


def _read_connection(path: Path) -> sqlite3.Connection:
    """Read-only; where not even the shared memory of a reader can be made, as a frozen file."""
    if not path.exists():
        raise StudyError(
            "there is no study here", place=str(path.parent), command="evomerge run CAMPAIGN"
        )
    location = path.resolve().as_uri()
    try:
        return _probed(f"{location}?mode=ro")
    except sqlite3.OperationalError:
        if path.with_name(f"{path.name}-wal").exists() or os.access(path.parent, os.W_OK):
            raise
        return _probed(f"{location}?mode=ro&immutable=1")


def _probed(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=WAIT_SECONDS, check_same_thread=False
    )
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except BaseException:
        connection.close()
        raise
    return connection


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: executescript would commit in between."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""


def _study_error(error: sqlite3.Error, path: Path) -> StudyError:
    """What a database error means to the user."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    place, told = str(path), "everything that was acknowledged before is kept"
    if code in _FULL or (code == sqlite3.SQLITE_IOERR and filesystem.is_full(path.parent)):
        return DiskFullError(
            "no space left for the study's database",
            place=place,
            kept=told,
            command="free some space, then run the same command again",
        )
    if code in _DAMAGED:
        return StudyDamagedError(
            f"the study's database is damaged ({error})",
            place=place,
            kept="its backup and the attempts' result files are kept",
            command=f"evomerge verify {path.parent} --repair",
        )
    if code in _BUSY:
        return Locked("another process keeps the study's database busy", place=place, kept=told)
    return StudyError(f"the study's database cannot be used ({error})", place=place, kept=told)
