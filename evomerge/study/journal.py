"""The append-only event log, and what the study has cost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from evomerge.study.database import Database
from evomerge.study.records import Event, Spend

LONGEST_REASON = 4000
"""Characters; the whole text is in the attempt's log file."""


def write(
    database: Database,
    kind: str,
    *,
    trial: int | None = None,
    attempt: int | None = None,
    **data: Any,
) -> None:
    """Appends an event, inside the caller's transaction.

    Args:
        data: whatever else is to be remembered, JSON.
    """
    text = json.dumps(data, separators=(",", ":")) if data else None
    database.execute(
        "INSERT INTO events (at, kind, trial, attempt, data) VALUES (?, ?, ?, ?, ?)",
        [time.time(), kind, trial, attempt, text],
    )


def read(database: Database, after: int = 0) -> Iterator[Event]:
    """Events with ids above ``after``, in order."""
    rows = database.rows("SELECT * FROM events WHERE id > ? ORDER BY id", [after])
    for number, at, kind, trial, attempt, data in rows:
        yield Event(number, at, kind, trial, attempt, json.loads(data) if data else {})


def spend(database: Database, session: int, kind: str, amount: float) -> None:
    """Adds to what a session has cost, inside the caller's transaction."""
    database.execute(
        "INSERT INTO spend VALUES (?, ?, ?) "
        "ON CONFLICT (session, kind) DO UPDATE SET amount = amount + excluded.amount",
        [session, kind, amount],
    )


def spent(database: Database, kind: str) -> float:
    """What all sessions have cost together."""
    row = database.row("SELECT coalesce(sum(amount), 0) FROM spend WHERE kind = ?", [kind])
    return float(row[0]) if row else 0.0


def shortened(reason: str | None) -> str | None:
    """A reason that fits into a table."""
    if reason is None or len(reason) <= LONGEST_REASON:
        return reason
    return f"{reason[:LONGEST_REASON]}... ({len(reason)} characters)"


def total(database: Database, *, carried: int) -> Spend:
    """All that was spent, over all sessions; trials that a fork carried over are not counted."""
    row = database.row("SELECT (SELECT count(*) FROM candidates), (SELECT count(*) FROM attempts)")
    trials, attempts = row if row else (0, 0)
    return Spend(
        trials=trials - carried,
        attempts=attempts,
        seconds=spent(database, "seconds"),
        wall_seconds=spent(database, "wall_seconds"),
    )
