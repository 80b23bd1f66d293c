"""Reads a log for samplers that learn from it: history with items, pending points, references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from evomerge.interfaces import Asked, ItemLosses, Log, Observation
from evomerge.space import Array
from evomerge.surrogates.history import GoalItems, History

_SUREST = 1e-9  # std of a forecast, at least: of a goal whose losses are all equal it is 0
_FARTHEST = 4.0  # that a deviation counts, so that one outlier is not the whole record


class Reader:
    """Follows one log, reading each event once.

    Args:
        goals: how many losses.
        items: whether they are read.

    Attributes:
        read: how many events were read.
        own: how many asks were the sampler's own.
        first_note: of the first of these.
        references: points that others asked for.
        foretold: numbers of the proposals whose notes say that a surrogate is behind them.
        deviations: of those that were measured whole, what came out less what was foretold, in the
            latter's stds, ``(m,)`` each, finite.
        ended: trials with finite losses, in the order in which they became visible.
        failed: points of the trials that ended without.
        pending: number to point of the trials that have not ended.
    """

    def __init__(self, goals: int, *, items: bool = True) -> None:
        self.read = 0
        self.own = 0
        self.first_note: Mapping[str, Any] | None = None
        self.references: dict[int, Array] = {}
        self.foretold: dict[int, Array] = {}
        self.deviations: list[Array] = []
        self.ended: list[Observation] = []
        self.failed: list[Array] = []
        self.pending: dict[int, Array] = {}
        self._goals = goals
        self._with_items = items
        self._items: list[tuple[ItemLosses, ...] | None] = []

    def follow(self, log: Log) -> None:
        """Reads what is new."""
        for event in log.events(self.read):
            self.read += 1
            if isinstance(event, Asked):
                self._asked(event)
            else:
                self._end(event)

    def history(self, count: int, most: int) -> History:
        """The first `count` ended trials; of more than `most` the latest."""
        rows = slice(max(0, count - most), count)
        ended, items = self.ended[rows], self._items[rows]
        unknown = np.full(self._goals, np.nan)
        errors = [unknown if e.standard_errors is None else e.standard_errors for e in ended]
        return History(
            points=np.array([event.point for event in ended]),
            losses=np.array([event.losses for event in ended], dtype=float),
            variances=np.array(errors) ** 2,
            items=tuple(self._goal_items(items, goal) for goal in range(self._goals)),
        )

    def _asked(self, event: Asked) -> None:
        self.pending[event.number] = event.point
        if event.own:
            self.first_note = event.note if self.own == 0 else self.first_note
            self.own += 1
            forecast = forecast_in(event.note)
            if forecast is not None:
                self.foretold[event.number] = np.array(forecast, dtype=float)
        else:
            self.references[event.number] = event.point

    def _end(self, event: Observation) -> None:
        self.pending.pop(event.number, None)
        if event.losses is None or not np.isfinite(event.losses).all():
            self.failed.append(event.point)
            return
        self.ended.append(event)
        read = event.read_items if self._with_items else None
        items = None if read is None else read()
        self._items.append(items)
        if event.number in self.foretold and _is_whole(items):
            mean, std, noise = self.foretold[event.number].T
            found = (event.losses - mean) / np.maximum(np.hypot(std, noise), _SUREST)
            if np.isfinite(found).all():
                self.deviations.append(np.clip(found, -_FARTHEST, _FARTHEST))

    @staticmethod
    def _goal_items(items: list[tuple[ItemLosses, ...] | None], goal: int) -> GoalItems | None:
        """Rows of NaN where a trial lacks margins, or has another number of items than most."""
        found = [None if one is None else one[goal] for one in items]
        sizes = Counter(len(o.losses) for o in found if o is not None and o.margins is not None)
        if not sizes:
            return None
        size = sizes.most_common(1)[0][0]
        losses, margins = np.full((2, len(found), size), np.nan)
        for row, one in enumerate(found):
            if one is not None and one.margins is not None and len(one.losses) == size:
                losses[row], margins[row] = one.losses, one.margins
        return GoalItems(losses, margins)


def forecast_in(note: Mapping[str, Any]) -> list[list[float]] | None:
    """By goal mean, std and noise; None if no surrogate proposed."""
    own = note.get("inner", {}) if "auto" in note else note
    found: list[list[float]] | None = own.get("foretold")
    return found


def _is_whole(items: tuple[ItemLosses, ...] | None) -> bool:
    """Whether no item is missing, as of a trial that lost its race; its losses are estimates."""
    return items is None or not any(np.isnan(one.losses).any() for one in items)
