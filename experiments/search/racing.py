"""Racing on real landscapes: what a search is worth on unseen items, for the items it spent.

    OMP_NUM_THREADS=1 python experiments/search/racing.py [--seeds 3] [--minutes 15] > racing.txt

Campaigns go to racing.jsonl as they end, with the mark of the sources that ran them. What stands
there with the present mark is not run again, and the tables are of that alone.

Every campaign is `margin`'s, four trials asked ahead, and ends when its search items have cost as
much as a number of full evaluations, the references among them; a column is what it would have
handed over after fewer, by what its surrogate says of the measured points, those of stopped trials
too. ``whole`` measures every trial on all search items; the others race by `first`, `error` and
`tolerance`. A discard is false if the stopped trial, measured on all items, would have been ahead
of the front that its race knew by the tolerance; ``stated`` is the mean of the chances at which
trials were stopped. ``peers`` are the best of the field's optimizers by the median, as `bars.py`
measured them, after 500 merges of their own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from bars import current, read_runs, sources
from campaign import MemoryLog
from judging import Judge
from peers import PEERS
from problem import Problem, Remembered
from problems import make

from evomerge.interfaces import Asked, ItemLosses, Observation, SearchProblem
from evomerge.randomness import generator
from evomerge.recipe.specs import Racing
from evomerge.search.margin import MarginSampler
from evomerge.search.racing import (
    FEWEST,
    ItemsTable,
    Standing,
    must_be_whole,
    stage_sizes,
    stages,
    standing,
)
from evomerge.space import Array

LOOKAHEAD = 4
COLUMNS = (12, 25, 50, 100)
RULES: Mapping[str, tuple[Racing | None, int]] = {
    "whole": (None, 100),
    "6%": (Racing(first=0.0625), 50),
    "12%": (Racing(), 50),
}
"""Rules, and how many full evaluations' items are spent."""
PROBLEMS = ("digits4/layers/4", "clouds/layers/4", "vit/layers/2", "digits4/layers/1")
FILE = Path(__file__).with_suffix(".jsonl")
Items = tuple[ItemLosses, ...]
Row = dict[str, Any]


@dataclass
class Campaign:
    """A campaign in memory.

    Attributes:
        whole: every trial's items, as if none had been stopped.
        stopped: by number, the chance at which a trial was stopped, and whether falsely.
        spent: full evaluations' worth of items, after each trial.
    """

    problem: Problem
    rules: Racing | None
    seed: int
    log: MemoryLog = field(default_factory=MemoryLog)
    points: list[Array] = field(default_factory=list)
    ends: list[Observation] = field(default_factory=list)
    whole: list[Items] = field(default_factory=list)
    stopped: dict[int, tuple[float, bool]] = field(default_factory=dict)
    spent: list[float] = field(default_factory=list)

    def run(self, spend: float) -> None:
        """References, then the sampler's trials, until so many full evaluations are spent."""
        searched = SearchProblem(self.problem.space, self.problem.goals, round(spend), self.seed)
        sampler = MarginSampler(searched)
        for point in self.problem.references():
            self._add(point, own=False, note={})
        while self.spent[-1] < spend:
            proposal = sampler.ask(self.log, len(self.points))
            self._add(proposal.point, own=True, note=proposal.note)

    def losses(self, spend: float) -> tuple[Array, Array]:
        """Points that so much spend pays for, and what the surrogate then says of them."""
        count = min(int(np.searchsorted(self.spent, spend - 1e-9)) + 1, len(self.points))
        log, given = MemoryLog(), len(self.problem.references())
        for number in range(count):
            point = self.points[number]
            log.entries += [Asked(number, point, number >= given, {}), self.ends[number]]
        searched = SearchProblem(self.problem.space, self.problem.goals, count, self.seed)
        points = np.array(self.points[:count])
        return points, MarginSampler(searched).surrogate(log).predict(points).mean

    def _add(self, point: Array, *, own: bool, note: Mapping[str, Any]) -> None:
        number, items = len(self.points), self.problem.items(point)
        self.log.entries.append(Asked(number, point, own, note))
        self.points.append(point)
        known = [n for n in range(number - LOOKAHEAD) if n not in self.stopped]
        raced = None
        stopped = [n in self.stopped for n in range(number - LOOKAHEAD)]
        races = own and len(known) >= FEWEST and not must_be_whole(number, stopped)
        if races and self.rules is not None:
            raced = self._raced(self.rules, number, items, known)
        cost, end = raced or (1.0, _observed(number, point, items, None, None))
        self.whole.append(items)
        self.ends.append(end)
        self.spent.append(cost + (self.spent[-1] if self.spent else 0.0))
        if number >= LOOKAHEAD:
            self.log.entries.append(self.ends[number - LOOKAHEAD])

    def _raced(
        self, rules: Racing, number: int, items: Items, known: list[int]
    ) -> tuple[float, Observation] | None:
        tables = self._tables(known)
        early = self._tables(known[: 1 << (len(known).bit_length() - 1)])
        counts = [len(one.losses) for one in items]
        sizes = stage_sizes(rules.first, counts)
        plans = [
            stages([table], size, generator(self.seed, "race", "items", goal))
            for goal, (table, size) in enumerate(zip(early, sizes, strict=True))
        ]
        for done in range(1, len(sizes[0])):
            places = [np.sort(np.concatenate(plan[:done])) for plan in plans]
            found = self._standing(rules, number, done, tables, places, items)
            if found.chance < rules.error / (len(sizes[0]) - 1):
                every = [np.arange(count) for count in counts]
                truth = self._standing(rules, number, 0, tables, every, items).chance
                self.stopped[number] = (found.chance, truth > 0.5)
                cost = sum(map(len, places)) / sum(counts)
                return cost, _observed(number, self.points[number], items, places, found)
        return None

    def _standing(
        self,
        rules: Racing,
        number: int,
        done: int,
        tables: list[ItemsTable],
        places: list[Array],
        items: Items,
    ) -> Standing:
        rng = generator(self.seed, "race", "chance", number, done)
        own = [_part(one, at) for one, at in zip(items, places, strict=True)]
        return standing(tables, places, own, (), rng, tolerance=rules.tolerated(len(items)))

    def _tables(self, numbers: list[int]) -> list[ItemsTable]:
        goals = range(self.problem.goals)
        return [ItemsTable.of([self.whole[n][goal] for n in numbers]) for goal in goals]


def _part(items: ItemLosses, places: Array) -> ItemLosses:
    return ItemLosses(
        items.losses[places], None if items.margins is None else items.margins[places]
    )


def _observed(
    number: int, point: Array, items: Items, places: list[Array] | None, found: Standing | None
) -> Observation:
    losses = np.array([one.losses.mean() for one in items])
    errors = np.array([one.losses.std(ddof=1) / np.sqrt(len(one.losses)) for one in items])
    if places is not None and found is not None:
        losses, errors = found.losses, np.hypot(errors, found.errors)
        items = tuple(_holed(one, at) for one, at in zip(items, places, strict=True))
    return Observation(number, point, losses, 0.0, errors, lambda: items)


def _holed(items: ItemLosses, places: Array) -> ItemLosses:
    away = np.ones(len(items.losses), dtype=bool)
    away[places] = False
    margins = None if items.margins is None else np.where(away, np.nan, items.margins)
    return ItemLosses(np.where(away, np.nan, items.losses), margins)


def measured(name: str, rule: str, seed: int) -> Row:
    """One campaign: the worth of what is handed over by column, and what became of its trials."""
    problem = Remembered(make(name, seed=seed))
    judge = Judge(problem)
    rules, spend = RULES[rule]
    campaign = Campaign(problem, rules, seed)
    campaign.run(spend)
    ends = campaign.stopped.values()
    return {
        "problem": name,
        "rule": rule,
        "seed": seed,
        "worth": [
            round(judge.worth(*campaign.losses(column)), 5) for column in COLUMNS if column <= spend
        ],
        "trials": len(campaign.points),
        "stopped": len(ends),
        "falsely": sum(false for _, false in ends),
        "stated": round(sum(chance for chance, _ in ends), 3),
        "sources": sources(),
    }


def lines(rows: list[Row]) -> Iterator[str]:
    """The tables, problem after problem."""
    for name in dict.fromkeys(row["problem"] for row in rows):
        yield f"\n{name}; full evaluations' items: {COLUMNS}"
        for rule in RULES:
            found = [row for row in rows if (row["problem"], row["rule"]) == (name, rule)]
            if found:
                cells = _cells(np.array([row["worth"] for row in found]))
                yield f"  {rule:6} {len(found):2} seeds  {cells}  {_facts(found)}"
        yield from _peers(name)


def _cells(table: Array) -> str:
    low, middle, high = np.quantile(table, (0.25, 0.5, 0.75), axis=0)
    cells = [f"{m:.3f} ({a:.3f}-{b:.3f})" for a, m, b in zip(low, middle, high, strict=True)]
    return "  ".join(cells)


def _facts(rows: list[Row]) -> str:
    trials, stopped, falsely, stated = (
        sum(row[key] for row in rows) for key in ("trials", "stopped", "falsely", "stated")
    )
    if not stopped:
        return ""
    return (
        f"{trials / len(rows):.0f} trials, {stopped / trials:.0%} stopped, "
        f"{falsely / stopped:.1%} of these falsely (stated {stated / stopped:.1%})"
    )


def _peers(name: str) -> Iterator[str]:
    by_method: dict[str, list[float]] = {}
    for (problem, method, _), row in read_runs(name.split("/")[0]).items():
        if problem == name and method in PEERS and "500" in row["found"]:
            by_method.setdefault(method, []).append(row["found"]["500"])
    if by_method:
        best = max(by_method, key=lambda method: float(np.median(by_method[method])))
        median = np.median(by_method[best])
        yield f"  peers     {median:.3f} after 500, {best}, {len(by_method[best])} seeds"


def main() -> None:
    """Runs what is not there yet, until the time is over, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    rows = _read()
    known = {(row["problem"], row["rule"], row["seed"]) for row in rows}
    for seed, name, rule in product(range(given.seeds), given.problems, RULES):
        if (name, rule, seed) not in known and time.monotonic() < end:
            rows.append(measured(name, rule, seed))
            with FILE.open("a") as stream:
                stream.write(json.dumps(rows[-1]) + "\n")
    for line in lines(rows):
        print(line, flush=True)


def _read() -> list[Row]:
    rows = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    mark = sources()
    return [row for row in rows if current(row, mark)]


if __name__ == "__main__":
    main()
