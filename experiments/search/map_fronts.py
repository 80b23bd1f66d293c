"""MAP's fronts on the digits, predicted and real, for 2 to 8 models with a weight and a task each.

    python experiments/search/map_fronts.py [--seeds 3] [--models 2 3] [--plot map_fronts.svg]

The samplers `map` and `bayesian_map` measure ``(N + 1)(N + 2)`` merges, references among them.
Their quadratics foretell a front of up to 40 merges, the ``predicted`` row; these measured are the
``real`` row; ``all`` is everything measured, design and front. The ``search`` of each sampler is a
Sobol sequence with as many measurements as its ``all``; ``truth`` for two models is a grid of
41 x 41.

Values are on the search items, each goal normalised so that the worst reference is 0 and the best
1. Columns: the number of measurements, of a predicted front of its merges; the hypervolume between
these; how often a merge of the row's front is ahead of one of its search's front in a task (ties
count half), of `map`'s for the truth; for two models the same against the truth's front, and the
mean distances from the front to the truth's (GD) and back (IGD).

First, how many of a quadratic's coefficients so many points fix, in the published design and in
ours, with the condition number of the monomials.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import numpy as np
from campaign import MemoryLog, observed, run
from digits import Digits
from problem import Problem

from evomerge.interfaces import Asked, SearchProblem
from evomerge.pareto import non_dominated
from evomerge.randomness import generator
from evomerge.report.chart import Mark, scatter
from evomerge.report.page import STYLE
from evomerge.search.breeding import bred
from evomerge.search.preferences import draw
from evomerge.search.quadratic_map import MapSampler
from evomerge.search.registry import make_sampler
from evomerge.space import Array
from evomerge.surrogates.basis import full

GRID, CLOUD = 41, 50_000  # points along each side; points that hypervolumes are counted on
SAMPLERS = ("map", "bayesian_map")


def published_design(models: int, count: int, rng: np.random.Generator) -> Array:
    """MAP's design as its published code draws it, weights ``(count, models)`` in [0, 1].

    The models themselves, and a random part of the grid with ``ceil((2 m) ** (1 / N))`` levels for
    m more points, without those whose weights are all alike or sum to 1.
    """
    more = count - models
    levels = np.linspace(0, 1, int(np.ceil((2 * more) ** (1 / models))))
    grid = np.array(list(product(levels, repeat=models)))
    alike = np.ptp(grid, axis=1) == 0
    grid = grid[~alike & ~np.isclose(grid.sum(axis=1), 1)]
    return np.concatenate([np.eye(models), grid[rng.permutation(len(grid))[:more]]])


def identified(points: Array) -> tuple[int, int, float]:
    """How many coefficients of a quadratic points fix, of how many, and the condition number."""
    features = full(points.mean(axis=0)).features(points)
    values = np.linalg.svd(features / np.linalg.norm(features, axis=0))[1]
    return int((values > 1e-9 * values[0]).sum()), features.shape[1], float(values[0] / values[-1])


class Scale:
    """Goals between the worst and the best reference, and the hypervolume there."""

    def __init__(self, problem: Problem) -> None:
        ends = np.array([problem.values(x) for x in problem.references()])
        self._low, self._high = ends.min(axis=0), ends.max(axis=0)
        self._cloud = generator(0, "cloud", problem.goals).random((CLOUD, problem.goals))

    def normed(self, values: Array) -> Array:
        return np.asarray((values - self._low) / (self._high - self._low))

    def volume(self, normed: Array) -> float:
        """The share of the unit cube that rows dominate."""
        below = np.zeros(len(self._cloud), dtype=bool)
        for row in normed:
            below |= (self._cloud <= row).all(axis=1)
        return float(below.mean())


def wins(ours: Array, theirs: Array) -> float:
    ahead = ours[:, None, :] - theirs[None, :, :]
    return float(np.mean((ahead > 0) + 0.5 * (ahead == 0)))


def distance(from_: Array, to: Array) -> float:
    return float(np.linalg.norm(from_[:, None, :] - to[None, :, :], axis=2).min(axis=1).mean())


def fronts(problem: Problem, name: str, seed: int) -> dict[str, Array]:
    """Values of the predicted front, of the real one, and of all that was measured."""
    goals, models = problem.goals, len(problem.space)
    count = (models + 1) * (models + 2)
    sampler = make_sampler(name, SearchProblem(problem.space, goals, 2 * count, seed), {})
    assert isinstance(sampler, MapSampler)
    references = problem.references()
    points, values = run(sampler, problem.values, references, count, lookahead=0)
    log = MemoryLog()
    for number, (point, value) in enumerate(zip(points, values, strict=True)):
        log.entries.append(Asked(number, point, number >= len(references), {}))
        log.entries.append(observed(number, point, value, problem.items))
    surrogate = sampler.surrogate(log)
    rng = generator(seed, "front", name)
    wish = draw(rng, np.zeros(goals), np.ones(goals), optimism=0.0, limits=())
    found = bred(surrogate, wish, points, -values, rng)
    foretold = -surrogate.predict(found).mean
    best = non_dominated(-foretold)
    real = np.array([problem.values(point) for point in found[best]])
    return {
        f"{name} predicted": foretold[best],
        f"{name} real": real,
        f"{name} all": np.concatenate([values, real]),
    }


def truth(problem: Problem) -> Array:
    """The values on a grid of two weights."""
    steps = np.linspace(0, 1, GRID)
    return np.array([problem.values(np.array(point)) for point in product(steps, steps)])


def compared(models: int, seed: int) -> tuple[dict[str, list[float]], Mapping[str, Array]]:
    """The rows of one seed, and the fronts behind them."""
    problem = Digits(models, 1, models, seed=seed, densities=False)
    sets: dict[str, Array] = {} if models > 2 else {"truth": truth(problem)}
    for name in SAMPLERS:
        sets |= fronts(problem, name, seed)
        size = len(sets[f"{name} all"])
        blind = make_sampler("sobol", SearchProblem(problem.space, models, size, seed), {})
        given = problem.references()
        sets[f"{name} search"] = run(blind, problem.values, given, size, lookahead=0)[1]
    scale = Scale(problem)
    shown = {name: scale.normed(values[non_dominated(-values)]) for name, values in sets.items()}
    rows = {}
    for name, one in shown.items():
        sampler = "map" if name == "truth" else name.split()[0]
        searched = shown[f"{sampler} search"]
        rows[name] = [len(sets[name]), scale.volume(one), wins(one, searched)]
        if "truth" in shown:
            grid = shown["truth"]
            rows[name] += [wins(one, grid), distance(one, grid), distance(grid, one)]
    return rows, shown


COLUMNS = ("hypervolume", "ahead of search", "ahead of truth", "GD", "IGD")


def table(models: int, seeds: int) -> Iterator[str]:
    """Medians over seeds."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for seed in range(seeds):
        for name, row in compared(models, seed)[0].items():
            found[name].append(row)
    count = (models + 1) * (models + 2)
    yield f"\n{models} models, a design of {count} merges, medians of {seeds} seeds"
    for name, rows in found.items():
        merges, *numbers = np.median(rows, axis=0)
        told = zip(COLUMNS, numbers, strict=False)
        yield f"  {name:24}{merges:4.0f} merges  " + "  ".join(f"{c} {v:.3f}" for c, v in told)


def designs(models: int) -> str:
    """What both designs fix."""
    count = (models + 1) * (models + 2)
    theirs = identified(published_design(models, count, generator(0, "published", models)))
    problem = Digits(models, 1, models, densities=False)
    sampler = make_sampler("map", SearchProblem(problem.space, models, 2 * count, 0), {})
    points, _ = run(sampler, lambda _: np.zeros(models), problem.references(), count, lookahead=0)
    ours = identified(points)
    return (
        f"{models} models, {count} points: the published design fixes {theirs[0]} of {theirs[1]} "
        f"coefficients (condition {theirs[2]:.0e}), ours {ours[0]} ({ours[2]:.0e})"
    )


def plotted(shown: Mapping[str, Array]) -> str:
    """The fronts of one campaign with two models as an SVG file; the first point bears the name."""
    kinds = {
        "truth": "trial",
        "map predicted": "parent",
        "map real": "front",
        "map search": "uniform",
    }
    marks = [
        Mark(x, y, kind, row, label="" if i else row)
        for row, kind in kinds.items()
        for i, (x, y) in enumerate(sorted(shown[row].tolist()))
    ]
    chart = scatter(marks, x_label="first task", y_label="second task")
    opening, rest = chart.split(">", 1)
    opening = opening.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" width="840"')
    return f"{opening}><style>{STYLE}</style>{rest}"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", type=int, nargs="*", default=list(range(2, 9)))
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    for models in given.models:
        print(designs(models), flush=True)
    for models in given.models:
        for line in table(models, given.seeds):
            print(line, flush=True)
    if given.plot:
        given.plot.write_text(plotted(compared(2, 0)[1]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
