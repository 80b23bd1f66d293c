"""The quick form of `bars.py`: `auto` beside random points and TPE, on one small landscape.

    python experiments/search/quick.py

Prints hypervolumes on unseen items, means of two seeds; exits with 1 if `auto` is not ahead of
random points after twice as many merges, and of TPE after as many. Two seeds tell no finer lead.
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


def main() -> int:
    """1 if a bar is missed."""
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
    return int(found["auto"] <= max(found["random"], found["tpe"]))


if __name__ == "__main__":
    sys.exit(main())
