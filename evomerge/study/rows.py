"""Between rows of the database and the program's nouns."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from evomerge.errors import StudyDamagedError
from evomerge.space import Array
from evomerge.study.asides import CONTROL
from evomerge.study.database import Database, Row
from evomerge.study.records import AttemptRecord
from evomerge.study.schema import RACES
from evomerge.trial import Candidate, Measured, Outcome, Scores, Split, Trial, TrialState

_FLOAT = np.dtype("<f8")
_TRIALS = """
    SELECT number, origin, method, names, numbers, point, state, visible_from, reason, {chance}
    FROM candidates JOIN trials USING (number)
"""


def packed(numbers: Iterable[float]) -> bytes:
    """float64, little-endian."""
    return np.fromiter(numbers, dtype=_FLOAT).tobytes()


def unpacked(blob: bytes) -> Array:
    """The inverse of `packed`, ``(n,)``.

    Raises:
        StudyDamagedError: if these are no such numbers.
    """
    try:
        return np.frombuffer(blob, dtype=_FLOAT)
    except (ValueError, TypeError) as error:
        raise StudyDamagedError(f"stored numbers cannot be read ({error})") from error


def load_trials(database: Database, where: str = "", values: Sequence[Any] = ()) -> list[Trial]:
    """Trials in ascending order.

    Args:
        where: an SQL condition on candidates and trials, with ``values`` for its question marks.
    """
    condition = f"WHERE {where}" if where else ""
    with database.snapshot():
        names = _all_names(database)
        chance = "chance" if database.version >= RACES else "NULL"
        trials = _TRIALS.format(chance=chance)
        found = database.rows(f"{trials} {condition} ORDER BY number", values)
        results = _load_results(database, [row[0] for row in found] if where else None)
    try:
        return [_trial(row, names, results.get(row[0], {})) for row in found]
    except (ValueError, KeyError, TypeError) as error:
        raise StudyDamagedError(
            f"a stored trial cannot be read ({error!r})",
            place=str(database.path),
            command=f"evomerge verify {database.path.parent} --repair",
        ) from error


def _all_names(database: Database) -> dict[int, tuple[str, ...]]:
    return {key: tuple(json.loads(text)) for key, text in database.rows("SELECT * FROM names")}


def _load_results(
    database: Database, numbers: list[int] | None
) -> dict[int, dict[Split, dict[str, Measured]]]:
    sql = "SELECT trial, split, metric, mean, standard_error, items FROM results"
    if numbers is None:
        rows = database.rows(sql)
    else:
        rows = [
            row for number in numbers for row in database.rows(f"{sql} WHERE trial = ?", [number])
        ]
    results: dict[int, dict[Split, dict[str, Measured]]] = defaultdict(dict)
    for trial, split, metric, mean, error, items in rows:
        results[trial].setdefault(split, {})[metric] = Measured(mean, error, items)
    return results


def load_values(database: Database, split: Split) -> dict[int, dict[str, float]]:
    """Means by metric of all trials measured on all of a split, by number, ascending.

    Trials of the control are left out.
    """
    values: dict[int, dict[str, float]] = {}
    beside = "SELECT number FROM candidates WHERE own = 0 AND point IS NULL AND origin = ?"
    if split == "search" and database.version >= RACES:
        beside += " UNION SELECT number FROM trials WHERE chance IS NOT NULL"
    for trial, metric, mean in database.rows(
        "SELECT trial, metric, mean FROM results "
        f"WHERE split = ? AND trial NOT IN ({beside}) ORDER BY trial",
        [split, CONTROL],
    ):
        values.setdefault(trial, {})[metric] = mean
    return values


def _trial(
    row: Row,
    names: Mapping[int, tuple[str, ...]],
    results: Mapping[Split, Mapping[str, Measured]],
) -> Trial:
    number, origin, method, key, numbers, point, state, visible_from, reason, chance = row
    candidate = Candidate(
        number=number,
        origin=origin,
        method=method,
        parameters=dict(zip(names[key], unpacked(numbers).tolist(), strict=True)),
        point=None if point is None else unpacked(point),
    )
    return Trial(candidate, TrialState(state), visible_from, reason, results, chance)


def store_candidate(
    database: Database, candidate: Candidate, *, own: bool, note: Mapping[str, Any]
) -> None:
    """Inserts a candidate and its trial, pending, inside the caller's transaction."""
    database.execute(
        "INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            candidate.number,
            candidate.origin,
            candidate.method,
            _names_key(database, tuple(candidate.parameters)),
            packed(candidate.parameters.values()),
            None if candidate.point is None else packed(candidate.point),
            int(own),
            json.dumps(note, separators=(",", ":")),
        ],
    )
    database.execute(
        "INSERT INTO trials (number, state) VALUES (?, ?)", [candidate.number, TrialState.PENDING]
    )


def _names_key(database: Database, names: tuple[str, ...]) -> int:
    text = json.dumps(names, separators=(",", ":"))
    found = database.row("SELECT id FROM names WHERE names = ?", [text])
    return found[0] if found else database.execute("INSERT INTO names (names) VALUES (?)", [text])


def store_scores(
    database: Database,
    trial: int,
    split: Split,
    scores: Mapping[str, Scores],
    *,
    attempt: int | None,
) -> None:
    """Inserts one split's results, inside the caller's transaction."""
    for metric, score in scores.items():
        value = Measured(score.mean, score.standard_error, len(score.items))
        store_value(database, trial, split, metric, value, attempt=attempt)
        margins = None if score.margins is None else packed(score.margins)
        database.execute(
            "INSERT INTO scores VALUES (?, ?, ?, ?, ?)",
            [trial, split, metric, packed(score.items), margins],
        )


def store_value(
    database: Database,
    trial: int,
    split: Split,
    metric: str,
    value: Measured,
    *,
    attempt: int | None,
) -> None:
    """Inserts one result, inside the caller's transaction."""
    row = [trial, split, metric, value.mean, value.standard_error, value.items, attempt]
    database.execute("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def load_scores(database: Database, trial: int, split: Split) -> dict[str, Scores]:
    """Scores by metric of one trial on one split; empty if it was not measured there."""
    rows = database.rows(
        "SELECT metric, items, margins FROM scores WHERE trial = ? AND split = ?", [trial, split]
    )
    return {
        metric: Scores(
            items=tuple(unpacked(items).tolist()),
            margins=None if margins is None else tuple(unpacked(margins).tolist()),
        )
        for metric, items, margins in rows
    }


def load_attempts(database: Database, trial: int | None = None) -> list[AttemptRecord]:
    """Attempts in the order in which they began, of one trial or of all."""
    where, values = ("", []) if trial is None else ("WHERE trial = ?", [trial])
    rows = database.rows(
        "SELECT id, trial, splits, worker, started, ended, outcome, seconds, reason "
        f"FROM attempts {where} ORDER BY id",
        values,
    )
    return [_attempt(row) for row in rows]


def _attempt(row: Row) -> AttemptRecord:
    number, trial, splits, worker, started, ended, outcome, seconds, reason = row
    return AttemptRecord(
        id=number,
        trial=trial,
        splits=tuple(splits.split()),
        worker=worker,
        started=started,
        ended=ended,
        outcome=None if outcome is None else Outcome(outcome),
        seconds=seconds,
        reason=reason,
    )
