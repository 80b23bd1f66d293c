"""Races: which search items of a trial are measured next, and when the rest is spared.

What a race knows of other trials is what the trial's own ask could see, so neither workers nor
restarts can change it. The stages are fixed when the first begins, and every stage that ended is
on the disk; a race that was broken off goes on with the next one. The base, the models, warm
starts, asides and the first own trials do not race.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from evomerge.errors import StudyError
from evomerge.goals import item_losses, loss_limits
from evomerge.interfaces import ItemLosses
from evomerge.randomness import generator
from evomerge.recipe.specs import Racing
from evomerge.space import Array
from evomerge.study.asides import load_asides, place_of
from evomerge.study.charter import Charter
from evomerge.study.database import Database
from evomerge.study.rows import load_scores
from evomerge.study.stages import (
    Places,
    load_stages,
    measured_stages,
    store_plan,
    whole_scores,
)
from evomerge.trial import Measured, Scores

if TYPE_CHECKING:
    from evomerge.search.racing import ItemsTable


@dataclass(frozen=True)
class Verdict:
    """How a race ended before its last stage.

    Attributes:
        chance: that the trial would have entered the front.
        values: by metric, estimated over all search items; `items` are those measured.
    """

    chance: float
    values: Mapping[str, Measured]


@dataclass(frozen=True)
class Races:
    """The races of one study."""

    database: Database
    charter: Charter

    def next_stage(self, number: int) -> int | None:
        """The stage of a trial to be measured next; None for a trial that does not race.

        Plans the race, inside the caller's transaction, if nothing of the trial was measured yet.
        """
        rules = self.charter.racing
        if rules is None:
            return None
        stages = load_stages(self.database, number)
        if not stages:
            plan = self._plan(number, rules)
            if plan is None:
                return None
            store_plan(self.database, number, plan)
        return measured_stages(stages)

    def items(self, number: int, stage: int) -> dict[str, tuple[int, ...]]:
        """Indices of a stage's items by metric."""
        found = {}
        for metric, stages in load_stages(self.database, number).items():
            split = self.charter.items(metric, "search") or ()
            found[metric] = tuple(split[place] for place in stages[stage].places)
        return found

    def counts(self, number: int, stage: int) -> dict[str, int]:
        """How many items a stage has, by metric."""
        return {metric: len(items) for metric, items in self.items(number, stage).items()}

    def is_measured(self, number: int, stage: int) -> bool:
        """Whether a stage has ended."""
        return measured_stages(load_stages(self.database, number)) > stage

    def finished(self, number: int) -> dict[str, Scores] | None:
        """The scores of a trial that was measured on all items; None before that."""
        stages = load_stages(self.database, number)
        rounds = min(map(len, stages.values()))
        return whole_scores(stages) if measured_stages(stages) == rounds else None

    def verdict(self, number: int, stage: int, fresh: Mapping[str, Scores]) -> Verdict | None:
        """The end of a race after a stage; None if it goes on, or that was its last.

        Reads up to 160 trials item by item, so it is called before the end's transaction.

        Args:
            fresh: scores of the stage, which need not be stored yet.
        """
        from evomerge.search.racing import standing

        rules = self.charter.racing
        if rules is None:
            raise StudyError(f"trial {number} has stages, and the campaign no racing")
        stages = load_stages(self.database, number)
        for metric, measured in fresh.items():
            stages[metric][stage] = replace(stages[metric][stage], scores=measured)
        done, rounds = measured_stages(stages), min(map(len, stages.values()))
        if done == rounds:
            return None
        known = self._known(self._ended(number))
        goals = self.charter.goals
        scores = whole_scores(stages)
        places = [np.flatnonzero(~np.isnan(scores[goal.metric].items)) for goal in goals]
        own = [
            ItemLosses(one.losses[at], None if one.margins is None else one.margins[at])
            for one, at in zip(item_losses(goals, scores), places, strict=True)
        ]
        place = place_of(number, load_asides(self.database))
        found = standing(
            [self._table(known, goal.metric) for goal in goals],
            places,
            own,
            loss_limits(goals),
            generator(self.charter.seed, "race", "chance", place, done),
            tolerance=rules.tolerated(len(goals)),
        )
        if found.chance >= rules.error / (rounds - 1):
            return None
        values = {
            goal.metric: Measured(
                goal.sign * float(loss), _whole_error(float(error), one.losses, count), len(at)
            )
            for goal, loss, error, one, at, count in zip(
                goals,
                found.losses,
                found.errors,
                own,
                places,
                [len(scores[goal.metric].items) for goal in goals],
                strict=True,
            )
        }
        return Verdict(found.chance, values)

    def _plan(self, number: int, rules: Racing) -> dict[str, Sequence[Places]] | None:
        """The stages by metric; None where too little is known, or there is nothing to spare."""
        from evomerge.search.racing import FEWEST, must_be_whole, stage_sizes, stages

        row = self.database.row("SELECT own FROM candidates WHERE number = ?", [number])
        ended = self._ended(number) if row and row[0] else []
        known, place = self._known(ended), place_of(number, load_asides(self.database))
        if len(known) < FEWEST or must_be_whole(place, [was_stopped for _, was_stopped in ended]):
            return None
        early = known[: 1 << (len(known).bit_length() - 1)]  # so items change seldom
        groups = self.charter.asked_together
        counts = [len(self.charter.items(metrics[0], "search") or ()) for metrics in groups]
        plan: dict[str, Sequence[Places]] = {}
        for metrics, sizes in zip(groups, stage_sizes(rules.first, counts), strict=True):
            if len(sizes) == 1:
                return None
            tables = [self._table(early, metric) for metric in metrics]
            rng = generator(self.charter.seed, "race", "items", metrics[0])
            plan |= dict.fromkeys(metrics, stages(tables, sizes, rng))
        return plan

    def _known(self, ended: Sequence[tuple[int, bool]]) -> list[Mapping[str, Scores]]:
        """Scores of those of the `_ended` trials that have all of their items, in order."""
        from evomerge.search.racing import MOST

        seen = [trial for trial, was_stopped in ended if not was_stopped]
        return [found for trial in seen[-MOST:] if (found := self._whole(trial)) is not None]

    def _ended(self, number: int) -> list[tuple[int, bool]]:
        """The measured trials that the ask of a trial saw, in order, and which were stopped."""
        asides = set(load_asides(self.database))
        rows = self.database.rows(
            "SELECT number, chance IS NOT NULL FROM trials WHERE state = 'done' "
            "AND visible_from <= ? ORDER BY visible_from, number",
            [number],
        )
        return [(trial, bool(stopped)) for trial, stopped in rows if trial not in asides]

    def _whole(self, number: int) -> dict[str, Scores] | None:
        """A trial's scores, if it has one for each search item of each goal."""
        scores = load_scores(self.database, number, "search")
        for metric in self.charter.metrics:
            wanted = len(self.charter.items(metric, "search") or ())
            if len(scores[metric].items) != wanted:
                return None  # only its mean was told
        return scores

    def _table(self, trials: Sequence[Mapping[str, Scores]], metric: str) -> ItemsTable:
        from evomerge.search.racing import ItemsTable

        goal = next(goal for goal in self.charter.goals if goal.metric == metric)
        return ItemsTable.of([item_losses([goal], scores)[0] for scores in trials])


def _whole_error(estimate: float, losses: Array, count: int) -> float | None:
    """The standard error of a mean over `count` items that was estimated from some of them."""
    if len(losses) < 2:
        return None
    return math.hypot(estimate, float(losses.std(ddof=1)) / math.sqrt(count))
