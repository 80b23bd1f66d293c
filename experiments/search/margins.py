"""Samplers on the digits landscape: what they reach on unseen items after 25, 50, 100 trials.

    python experiments/search/margins.py [--seeds 3] [--problems P24 P32]

Every sampler runs one campaign of 100 trials per seed, its references among them, four trials
pending at every ask; the rows are what it would have handed over after fewer. Several goals: the
hypervolume of the handed-over front on unseen items, each goal normalised so that the worst of the
base, the specialists and their average is 0 and the best of them 1. One goal, the mean accuracy:
that of the handed-over merge on unseen items. The front is the one by measured scores, and with
``model`` behind the name by what the sampler's own surrogate says of the measured points.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
from campaign import MemoryLog, observed, run
from digits import Digits
from judging import Judge
from problem import Problem, measured_first

from evomerge.interfaces import Asked, SearchProblem
from evomerge.search.margin import MarginSampler
from evomerge.search.registry import make_sampler
from evomerge.space import Array

# models, groups, goals
PROBLEMS = {
    "P24": (3, 4, 3),
    "P32": (4, 4, 4),
    "P96": (8, 6, 4),
    "P192": (8, 12, 4),
    "P24 one goal": (3, 4, 1),
    "P32 one goal": (4, 4, 1),
    "P96 one goal": (8, 6, 1),
    "P192 one goal": (8, 12, 1),
}
SEVERAL = ("random", "nsga2", "tpe", "map", "bayesian", "margin_evolution", "margin")
ONE = ("random", "cma", "tpe", "map", "bayesian", "margin_evolution", "margin")
TRIALS = (25, 50, 100)
Rows = dict[str, list[float]]


def campaign(problem: Digits, sampler: str, seed: int, trials: int) -> Rows:
    """Values on unseen items by name of what was handed over, one per entry of `TRIALS`."""
    searched = SearchProblem(problem.space, problem.goals, trials, seed)
    made = make_sampler(sampler, searched, {})
    references = problem.references()
    items = problem.items
    points, values = run(made, problem.values, references, trials, items=items)
    rows: Rows = {sampler: []}
    judge = Judge(problem)
    for count in [t for t in TRIALS if t <= trials]:
        rows[sampler].append(judge.worth(points[:count], -values[:count]))
        if isinstance(made, MarginSampler):
            predicted = believed(searched, points[:count], values[:count], problem)
            worth = judge.worth(points[:count], predicted)
            rows.setdefault(f"{sampler} model", []).append(worth)
    return rows


def believed(searched: SearchProblem, points: Array, values: Array, problem: Problem) -> Array:
    """What the surrogate of `margin` says of the measured points, ``(n, m)`` losses."""
    log, given = MemoryLog(), len(measured_first(problem, searched.trials))
    for number, (point, value) in enumerate(zip(points, values, strict=True)):
        log.entries.append(Asked(number, point, number >= given, {}))
        log.entries.append(observed(number, point, value, problem.items))
    return MarginSampler(searched).surrogate(log).predict(points).mean


def lines(names: list[str], seeds: int, samplers: list[str], trials: int) -> Iterator[str]:
    for name in names:
        models, groups, goals = PROBLEMS[name]
        yield f"\n{name}: {models} models, {groups} groups, {goals} goals, {seeds} seeds"
        for sampler in samplers or (SEVERAL if goals > 1 else ONE):
            start, found = time.process_time(), list[Rows]()
            for seed in range(seeds):
                found.append(
                    campaign(Digits(models, groups, goals, seed=seed), sampler, seed, trials)
                )
            seconds = (time.process_time() - start) / seeds
            for row in found[0]:
                table = np.array([rows[row] for rows in found])
                low, middle, high = np.quantile(table, (0.25, 0.5, 0.75), axis=0)
                cells = [
                    f"{m:.3f} ({a:.3f}-{b:.3f})" for a, m, b in zip(low, middle, high, strict=True)
                ]
                yield f"  {row:14} " + "  ".join(cells) + f"  {seconds:.0f} s a campaign"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--samplers", nargs="*", default=[])
    given = parser.parse_args()
    for line in lines(given.problems, given.seeds, given.samplers, given.trials):
        print(line, flush=True)


if __name__ == "__main__":
    main()
