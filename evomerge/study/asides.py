"""Asides: trials that a user wants measured beside the search, and that no sampler ever sees.

They take numbers like all trials, but no place among the sampler's: what is asked, and what each
ask may see, is counted without them. So every later ask is the one that it would have been.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from evomerge.study.database import Database

PREFER = "prefer "
"""What the origin of a trial for other preferences begins with."""

CONTROL = "control"
"""The origin of a trial of the control, see `evomerge.study.control`."""


def load_asides(database: Database) -> list[int]:
    """Their numbers, ascending; in a fork they are carried over as others' points, and seen."""
    rows = database.rows(
        "SELECT number FROM candidates WHERE own = 0 AND point IS NULL "
        "AND (substr(origin, 1, ?) = ? OR origin = ?) ORDER BY number",
        [len(PREFER), PREFER, CONTROL],
    )
    return [number for (number,) in rows]


def place_of(number: int, asides: Sequence[int]) -> int:
    """How many trials of the search come before a number: its own number without asides."""
    return number - bisect_left(asides, number)


def number_at(place: int, asides: Sequence[int]) -> int:
    """The trial of the search at a place; the inverse of `place_of`."""
    number = place
    for aside in asides:
        number += aside <= number
    return number
