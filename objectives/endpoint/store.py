"""The study's file of endpoints: what was spent, what was answered, and the anchors of drift.

One SQLite file beside the study's database. All workers write it, each change in one short
transaction that the system has when it returns; so a request is counted before it is sent, and an
answer is kept in the same transaction that settles its cost. Whatever is killed when, nothing was
sent that is not counted, and nothing that was received is asked again. Against a power cut the
file is flushed to the disk after every `FLUSHED` changes and every batch: to do it at each would
take longer than many a server takes to answer.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from evomerge.errors import DiskFullError, StudyDamagedError, StudyError

FLUSHED = 64
"""Changes between two flushes: the most that a power cut may lose of each worker."""

_WAIT = 60.0  # seconds for another process's short transaction
_SHARED = ("journal_mode = WAL", "synchronous = NORMAL")  # flushed by `Store.flush`
_NETWORK = ("journal_mode = DELETE", "synchronous = FULL")
_LEVEL = 1  # of compression: answers are JSON, and there are many
_TABLES = (
    "CREATE TABLE IF NOT EXISTS spent (owner INTEGER PRIMARY KEY, requests INTEGER NOT NULL, "
    "tokens INTEGER NOT NULL, money REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS anchors (name TEXT PRIMARY KEY, seen TEXT NOT NULL) WITHOUT ROWID",
)


@dataclass(frozen=True)
class Charge:
    """What requests cost; differences may be negative."""

    requests: int = 0
    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: Charge) -> Charge:
        return Charge(
            self.requests + other.requests, self.tokens + other.tokens, self.money + other.money
        )

    def __sub__(self, other: Charge) -> Charge:
        return Charge(
            self.requests - other.requests, self.tokens - other.tokens, self.money - other.money
        )


KINDS = tuple(field.name for field in fields(Charge))
"""What a charge counts, and what a campaign's budget may limit."""


@dataclass(frozen=True)
class Limits:
    """A campaign's budget for its endpoints; None has no limit."""

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return any(getattr(self, kind) is not None for kind in KINDS)

    def exceeded(self, spent: Charge) -> str | None:
        """The first limit that a sum is above, in words; None if it is within all."""
        for kind in KINDS:
            limit, amount = getattr(self, kind), getattr(spent, kind)
            # A sum of prices may differ from its limit by rounding alone.
            if limit is not None and amount > limit and not math.isclose(amount, limit):
                return f"the budget of {limit:g} {kind}"
        return None


class Store:
    """An open file of endpoints. Its methods may be called from any thread of one process.

    Args:
        path: of the file, made if it is not there; None keeps everything in memory.
        shared_memory: whether SQLite may use write-ahead mode, which network file systems break.

    Raises:
        StudyDamagedError: if the file is no such database.
        DiskFullError, StudyError: if it cannot be made or written.
    """

    def __init__(self, path: Path | None, *, shared_memory: bool = True) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._unflushed = 0
        with self._translated():
            self._connection = sqlite3.connect(
                path or ":memory:", isolation_level=None, timeout=_WAIT, check_same_thread=False
            )
            for pragma in _SHARED if shared_memory else _NETWORK:
                self._connection.execute(f"PRAGMA {pragma}")
            with self._change():
                for table in _TABLES:
                    self._connection.execute(table)

    def flush(self) -> None:
        """Have the disk take what the system has of all changes so far."""
        self._unflushed = 0
        log = None if self.path is None else self.path.with_name(f"{self.path.name}-wal")
        if log is not None and log.exists():
            descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Close the file; twice is harmless."""
        with self._lock:
            self._connection.close()

    def reserve(self, owner: int, charge: Charge, limits: Limits) -> str | None:
        """Count a request before it is sent, with the most that it can cost.

        Args:
            owner: the study's number of the attempt; 0 for self-tests.

        Returns:
            None, or the limit that would be exceeded; then nothing was counted.
        """
        limit = None
        with self._change():
            if limits.any:
                limit = limits.exceeded(self._sum() + charge)
            if limit is None:
                self._add(owner, charge)
        return limit

    def settle(
        self, owner: int, change: Charge, *, key: str | None = None, answer: bytes | None = None
    ) -> None:
        """Put a reserved charge right, and keep the answer that was paid for.

        Args:
            change: the true charge minus the reserved one.
            key: of the answer, see `answer`; None keeps none.
        """
        with self._change():
            self._add(owner, change)
            if key is not None and answer is not None:
                self._connection.execute(
                    "INSERT OR REPLACE INTO answers VALUES (?, ?)",
                    [key, zlib.compress(answer, _LEVEL)],
                )

    def answer(self, key: str) -> bytes | None:
        """A kept answer; None if this was never answered."""
        rows = self._rows("SELECT answer FROM answers WHERE key = ?", [key])
        return zlib.decompress(rows[0][0]) if rows else None

    def spent(self) -> Charge:
        """The sum over all owners."""
        with self._lock, self._translated():
            return self._sum()

    def spent_by_owner(self) -> dict[int, Charge]:
        """What each attempt has cost; 0 is the self-tests."""
        return {row[0]: Charge(*row[1:]) for row in self._rows("SELECT * FROM spent", [])}

    def carry(self, owner: int, charge: Charge) -> None:
        """Make sure that an owner has spent at least this: what the study's database remembers."""
        with self._change():
            self._put(owner, charge, "{0} = max({0}, excluded.{0})")

    def anchor(self, name: str) -> Any:
        """What a server said of its anchor when it was last measured; None if never."""
        rows = self._rows("SELECT seen FROM anchors WHERE name = ?", [name])
        return json.loads(rows[0][0]) if rows else None

    def keep_anchor(self, name: str, seen: Any) -> None:
        """Remember what a server says of its anchor, JSON; replaces what was remembered."""
        with self._change():
            self._connection.execute(
                "INSERT OR REPLACE INTO anchors VALUES (?, ?)", [name, json.dumps(seen)]
            )

    def _sum(self) -> Charge:
        sums = ", ".join(f"coalesce(sum({kind}), 0)" for kind in KINDS)
        return Charge(*self._connection.execute(f"SELECT {sums} FROM spent").fetchone())

    def _add(self, owner: int, charge: Charge) -> None:
        self._put(owner, charge, "{0} = {0} + excluded.{0}")

    def _put(self, owner: int, charge: Charge, change: str) -> None:
        changes = ", ".join(change.format(kind) for kind in KINDS)
        self._connection.execute(
            f"INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT (owner) DO UPDATE SET {changes}",
            [owner, charge.requests, charge.tokens, charge.money],
        )

    def _rows(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._lock, self._translated():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def _change(self) -> Iterator[None]:
        """One transaction: all of it or nothing."""
        with self._lock, self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._unflushed += 1
        if self._unflushed >= FLUSHED:
            self.flush()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.Error) -> StudyError:
        place, code = str(self.path), getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return DiskFullError("no space left for the answers of endpoints", place=place)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StudyDamagedError(
                f"the file of endpoints' answers is damaged ({error}); without it, answers are "
                "paid for again, and spend is what the study's database says",
                place=place,
                command=f"mv {place} {place}.damaged, and run again",
            )
        return StudyError(f"the file of endpoints' answers cannot be used ({error})", place=place)
