"""The quick form of `bars.py`: `auto` beside random points and TPE, on one small landscape.

    python experiments/search/quick.py

Prints hypervolumes on unseen items, means of two seeds; exits with 1 if `auto` is not ahead by
`LEAD` of random points after twice as many merges. Six seeds had leads of 14 to 29 % each. TPE is
only shown: after as many merges it was ahead with one of the six.
"""

from __future__ import annotations

import sys

import numpy as np
from campaign import run
from judging import Judge
from landscape import Landscape
from problem import Remembered

from evomerge.interfaces import SearchProblem
from evomerge.search.registry import make_sampler

MERGES, SEEDS = 50, (0, 1)
LEAD = 1.05  # a ratio of hypervolumes


def main() -> int:
    """1 if the bar is missed."""
    problem = Remembered(Landscape(0, models=4, bands=1, goals=2))
    judge, found = Judge(problem), dict[str, float]()
    for name, merges in (("auto", MERGES), ("random", 2 * MERGES), ("tpe", MERGES)):
        worths = []
        for seed in SEEDS:
            searched = SearchProblem(problem.space, problem.goals, merges, seed)
            sampler, given = make_sampler(name, searched, {}), problem.references()
            points, values = run(sampler, problem.values, given, merges, items=problem.items)
            worths.append(judge.worth(points, -values))
        found[name] = float(np.mean(worths))
        print(f"{name} with {merges} merges: {found[name]:.3f}")
    ahead = found["auto"] / found["random"]
    print(f"auto ahead of random: {ahead:.3f} times, at least {LEAD} wanted")
    return int(ahead < LEAD)


if __name__ == "__main__":
    sys.exit(main())
