"""The append-only event log, and what the study has cost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from evomerge.objectives.endpoint.store import Charge
from evomerge.study.database import Database
from evomerge.study.records import Event, Spend

_KNOWS_COSTS = 2  # version of the schema
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


def store_costs(database: Database, costs: Mapping[int, Charge]) -> None:
    """Records what attempts have cost at endpoints, inside the caller's transaction.

    Args:
        costs: sums by attempt, in place of what was recorded of these attempts.
    """
    for attempt, charge in costs.items():
        for kind, amount in asdict(charge).items():
            row = [attempt, kind, amount]
            database.execute("INSERT OR REPLACE INTO costs VALUES (?, ?, ?)", row)


def load_costs(database: Database) -> dict[int, Charge]:
    """Sums by attempt; empty also in a study of an evomerge that knew no endpoints."""
    if database.version < _KNOWS_COSTS:
        return {}
    found: dict[int, dict[str, Any]] = {}
    for attempt, kind, amount in database.rows("SELECT attempt, kind, amount FROM costs"):
        found.setdefault(attempt, {})[kind] = amount if kind == "money" else round(amount)
    return {attempt: Charge(**amounts) for attempt, amounts in found.items()}


def shortened(reason: str | None) -> str | None:
    """A reason that fits into a table."""
    if reason is None or len(reason) <= LONGEST_REASON:
        return reason
    return f"{reason[:LONGEST_REASON]}... ({len(reason)} characters)"


def total(database: Database, *, beside: int) -> Spend:
    """All that was spent, over all sessions.

    Args:
        beside: how many trials are not the budget's: carried over by a fork, or asides.
    """
    row = database.row("SELECT (SELECT count(*) FROM candidates), (SELECT count(*) FROM attempts)")
    trials, attempts = row if row else (0, 0)
    cost = sum(load_costs(database).values(), Charge())
    return Spend(
        trials=trials - beside,
        attempts=attempts,
        seconds=spent(database, "seconds"),
        wall_seconds=spent(database, "wall_seconds"),
        **asdict(cost),
    )
