"""Whether the surrogate of `margin` knows what it does not know, on the digits landscape.

    python experiments/search/honesty.py [--seeds 2]

After 50 trials of a campaign, how many of the next 50 trials' measured losses lie inside the
intervals of 50 % and 90 % that were predicted, and the same of 50 points around the centre that no
sampler chose; with margins, and with 0/1 scores only. And how much of their variance is explained.
"""

from __future__ import annotations

import argparse

import numpy as np
from campaign import MemoryLog, observed, run
from digits import Digits
from margins import PROBLEMS

from evomerge.interfaces import Asked, SearchProblem
from evomerge.randomness import generator
from evomerge.search.centred import STEP, centre_of
from evomerge.search.margin import MarginSampler
from evomerge.search.quasirandom import folded
from evomerge.space import Array

TRIALS, FITTED, AROUND = 100, 50, 50
NAMES = ("P24", "P32", "P32 one goal", "P96 one goal")


def checked(problem: Digits, seed: int) -> Array:
    """Coverages and explained shares, ``(2, 3)``: of the next trials, and of points around."""
    searched = SearchProblem(problem.space, problem.goals, TRIALS, seed)
    sampler = MarginSampler(searched)
    points, values = run(sampler, problem.values, problem.references(), TRIALS, items=problem.items)
    log = MemoryLog()
    for number, (point, value) in enumerate(zip(points[:FITTED], values, strict=False)):
        log.entries.append(Asked(number, point, number > problem.models + 1, {}))
        log.entries.append(observed(number, point, value, problem.items))
    surrogate = MarginSampler(searched).surrogate(log)
    centre = centre_of(searched, np.empty((0, len(problem.space))))
    steps = generator(seed, "around").normal(size=(AROUND, len(centre)))
    around = np.array([folded(centre + STEP * step) for step in steps])
    rows = []
    for some in (points[FITTED:], around):
        truth = -np.array([problem.values(x) for x in some])
        found = surrogate.predict(some)
        away = np.abs(truth - found.mean) / found.spread
        unexplained = ((truth - found.mean) ** 2).mean(axis=0) / truth.var(axis=0)
        rows.append([np.mean(away < 0.6745), np.mean(away < 1.6449), 1 - unexplained.mean()])
    return np.array(rows)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    seeds = parser.parse_args().seeds
    for name in NAMES:
        for margins in (True, False):
            models, groups, goals = PROBLEMS[name]
            tables = [
                checked(Digits(models, groups, goals, seed=seed, margins=margins), seed)
                for seed in range(seeds)
            ]
            for where, row in zip(("next", "around"), np.mean(tables, axis=0), strict=True):
                print(
                    f"{name:13} {'margins' if margins else '0/1':8} {where:7} 50 %: {row[0]:.2f}  "
                    f"90 %: {row[1]:.2f}  explained {row[2]:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
