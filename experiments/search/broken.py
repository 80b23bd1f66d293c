"""Landscapes made to break a surrogate: whether the poor fit is seen, and what `auto` does then.

    python experiments/search/broken.py [--seeds 5]

One goal, 200 items, 8 parameters, 80 trials. `smooth` is a bowl in the items' margins, the control.
`cells` gives every cell of a grid a score of its own, so nothing can be foretold. `cliffs` counts
the parameters that lie in a narrow window of their own. In `false margins` the margins are those of
another bowl than the score's. Of the proposals after the 24th: the share that TPE made, what the
surrogate explained of trials left out, and the margins' weight in it, medians over seeds; then the
median of the best true score.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from campaign import run

from evomerge.interfaces import ItemLosses, Log, Proposal, SearchProblem
from evomerge.randomness import generator
from evomerge.search.registry import make_sampler
from evomerge.space import Array, Parameter, Space

DIMENSIONS, ITEMS, TRIALS, FIRST = 8, 200, 80, 24
SPACE = Space(tuple(Parameter(f"p{i}", 0.0, 1.0) for i in range(DIMENSIONS)))
SAMPLERS = ("auto", "margin", "tpe", "random")
Score = Callable[[Array, int], float]


def bowl(x: Array, seed: int) -> float:
    """1 at a point of the seed's, falling with the distance from it."""
    away = x - generator(seed, "bottom").uniform(0.2, 0.8, size=DIMENSIONS)
    return float(np.exp(-3 * away @ away))


def cells(x: Array, seed: int) -> float:
    """Of a grid of four cells per parameter, uniform in [0, 1]."""
    return float(generator(seed, "cell", *np.floor(4 * x).astype(int).tolist()).random())


def cliffs(x: Array, seed: int) -> float:
    """Windows of width 0.3."""
    starts = generator(seed, "windows").uniform(0, 0.7, size=DIMENSIONS)
    return float(0.1 + 0.8 * np.mean((x >= starts) & (x < starts + 0.3)))


LANDSCAPES: dict[str, tuple[Score, bool]] = {  # and whether there are margins
    "smooth": (bowl, True),
    "cells": (cells, False),
    "cliffs": (cliffs, False),
    "false margins": (bowl, True),
}


class Landscape:
    """One of `LANDSCAPES` with items, which go right below a difficulty of their own."""

    def __init__(self, name: str, seed: int) -> None:
        self.score, self.margins = LANDSCAPES[name]
        self.seed, self.false = seed, name == "false margins"
        self.difficulty = generator(seed, "difficulty").uniform(size=ITEMS)

    def truth(self, point: Array) -> float:
        """The expected share of items that go right."""
        return self.score(point, self.seed)

    def items(self, point: Array) -> tuple[ItemLosses, ...]:
        """Losses of -1 where an item goes right."""
        ahead = self.truth(point) - self.difficulty
        told = self.score(point, self.seed + 1000) - self.difficulty if self.false else ahead
        return (ItemLosses(-(ahead > 0).astype(float), -told if self.margins else None),)

    def values(self, point: Array) -> Array:
        """The share of items that go right, ``(1,)``."""
        return np.array([-self.items(point)[0].losses.mean()])


class Noted:
    """A sampler whose notes are kept."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.notes: list[dict[str, object]] = []
        self._sampler = make_sampler(name, SearchProblem(SPACE, 1, TRIALS, seed), {})

    def ask(self, log: Log, number: int) -> Proposal:
        proposal = self._sampler.ask(log, number)
        self.notes.append(dict(proposal.note))
        return proposal


def seen(notes: list[dict[str, object]]) -> tuple[float, float, float]:
    """TPE's share, what was explained, and the margins' weight."""
    explained, weights, others = [], [], []
    for note in notes[FIRST:]:
        inner = note["inner"]
        assert isinstance(inner, dict)
        others.append(note.get("by") == "tpe")
        explained.append(note.get("explained", inner.get("explained", [np.nan])))
        weights.append(inner.get("margins", [np.nan]))
    return float(np.mean(others)), float(np.nanmedian(explained)), float(np.nanmedian(weights))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    for name in LANDSCAPES:
        best: dict[str, list[float]] = {sampler: [] for sampler in SAMPLERS}
        told = []
        for seed in range(seeds):
            landscape = Landscape(name, seed)
            middle = [np.full(DIMENSIONS, 0.5)]
            for sampler in SAMPLERS:
                noted = Noted(sampler, seed)
                points, _ = run(noted, landscape.values, middle, TRIALS, items=landscape.items)
                best[sampler].append(max(map(landscape.truth, points)))
                if sampler == "auto":
                    told.append(seen(noted.notes))
        share, explained, weight = np.nanmedian(told, axis=0)
        scores = "  ".join(f"{s} {np.median(v):.3f}" for s, v in best.items())
        print(
            f"{name:14} by TPE {share:.2f}, explained {explained:.2f}, weight of margins "
            f"{weight:.2f};  {scores}",
            flush=True,
        )


if __name__ == "__main__":
    main()
