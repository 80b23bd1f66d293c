"""Rows of raced trials: their items stage by stage, as planned and as measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evomerge.space import Array
from evomerge.study.database import Database
from evomerge.study.rows import packed, unpacked
from evomerge.trial import Scores

_PLACE = np.dtype("<i4")
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Stage:
    """One goal's part of a stage.

    Attributes:
        places: ``(k,)`` ascending, among the items of the split.
        scores: of these; None until they were measured.
        attempt: the one that measured them.
    """

    places: Places
    scores: Scores | None = None
    attempt: int | None = None


Stages = dict[str, list[Stage]]
"""All stages of a trial, by metric; empty for a trial that does not race."""


def store_plan(database: Database, trial: int, plan: Mapping[str, Sequence[Places]]) -> None:
    """Fixes the items of all stages, inside the caller's transaction."""
    for metric, stages in plan.items():
        for stage, places in enumerate(stages):
            database.execute(
                "INSERT INTO stages (trial, stage, metric, places) VALUES (?, ?, ?, ?)",
                [trial, stage, metric, places.astype(_PLACE).tobytes()],
            )


def store_stage(
    database: Database, trial: int, stage: int, scores: Mapping[str, Scores], attempt: int
) -> None:
    """Records what a stage measured, inside the caller's transaction."""
    for metric, found in scores.items():
        margins = None if found.margins is None else packed(found.margins)
        database.execute(
            "UPDATE stages SET items = ?, margins = ?, attempt = ? "
            "WHERE trial = ? AND stage = ? AND metric = ?",
            [packed(found.items), margins, attempt, trial, stage, metric],
        )


def load_stages(database: Database, trial: int) -> Stages:
    """All stages of one trial, planned and measured."""
    found: Stages = defaultdict(list)
    for metric, places, items, margins, attempt in database.rows(
        "SELECT metric, places, items, margins, attempt FROM stages WHERE trial = ? "
        "ORDER BY metric, stage",
        [trial],
    ):
        scores = None
        if items is not None:
            scores = Scores(
                tuple(unpacked(items).tolist()),
                None if margins is None else tuple(unpacked(margins).tolist()),
            )
        where = np.frombuffer(places, dtype=_PLACE).astype(np.int64)
        found[metric].append(Stage(where, scores, attempt))
    return dict(found)


def measured_stages(stages: Stages) -> int:
    """How many stages were measured: the number of the next one."""
    return min((sum(s.scores is not None for s in each) for each in stages.values()), default=0)


def whole_scores(stages: Stages) -> dict[str, Scores]:
    """Scores in the order of the split's items, NaN where an item was not measured."""
    return {metric: _whole(each) for metric, each in stages.items()}


def _whole(stages: Sequence[Stage]) -> Scores:
    size = sum(len(stage.places) for stage in stages)
    done = [(stage.places, stage.scores) for stage in stages if stage.scores is not None]
    items = _laid([(places, scores.items) for places, scores in done], size)
    margins = [(places, s.margins) for places, s in done if s.margins is not None]
    if len(margins) < len(done):
        return Scores(items)
    return Scores(items, _laid(margins, size))


def _laid(parts: Sequence[tuple[Places, Sequence[float]]], size: int) -> tuple[float, ...]:
    row: Array = np.full(size, np.nan)
    for places, values in parts:
        row[places] = values
    return tuple(row.tolist())
