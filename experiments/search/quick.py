"""The quick form of `bars.py`: `auto` does what others need twice as many merges for.

    python experiments/search/quick.py

On one small landscape; prints the hypervolume on unseen items of `auto`, and of random points and
TPE after twice as many merges, and exits with 1 if `auto` is not ahead of both.
"""

from __future__ import annotations

import sys

from campaign import run
from judging import Judge
from landscape import Landscape
from problem import Remembered

from evomerge.interfaces import SearchProblem
from evomerge.search.registry import make_sampler

MERGES, SEED = 40, 0


def main() -> int:
    """1 if a bar is missed."""
    problem = Remembered(Landscape(SEED, models=4, bands=2, goals=2))
    judge, found = Judge(problem), dict[str, float]()
    for name, merges in (("auto", MERGES), ("random", 2 * MERGES), ("tpe", 2 * MERGES)):
        sampler = make_sampler(name, SearchProblem(problem.space, problem.goals, merges, SEED), {})
        points, values = run(
            sampler, problem.values, problem.references(), merges, items=problem.items
        )
        found[name] = judge.worth(points, -values)
        print(f"{name} with {merges} merges: {found[name]:.3f}")
    return int(found["auto"] <= max(found["random"], found["tpe"]))


if __name__ == "__main__":
    sys.exit(main())
