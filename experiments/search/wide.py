"""Hundreds of dimensions: what the default search makes of them within 200 evaluations.

    OMP_NUM_THREADS=1 python experiments/search/wide.py [--seeds 2] [--trials 100] > wide.txt

Every landscape twice: with numbers per model and block of the network, and with the same numbers
for all blocks, which the first space contains. Asks are made four trials ahead; the columns are the
worth on unseen items (`judging.py`) of what measured scores choose after so many evaluations, of
`auto` those references among them that a campaign measures; the peers have all of them for nothing;
``auto model`` has what the surrogate of `auto` chooses instead. The peers'
settings are in `peers.py`. Seconds are of processor time, merging and measuring among them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from campaign import run
from digits import Digits
from judging import Judge
from margins import believed
from peers import PEERS, archive_of
from pool import Pool
from problem import Problem, Remembered, measured_first

from evomerge.interfaces import SearchProblem
from evomerge.search.registry import make_sampler

COLUMNS = (50, 100, 200)
BLOCKS = 12
PROBLEMS: Mapping[str, Callable[[int, int, int], Problem]] = {  # from groups, goals and seed
    "digits8": lambda groups, goals, seed: Digits(8, groups, goals, seed=seed),
    "pool": lambda groups, goals, seed: Pool(groups, goals, seed=seed),
}


def worths(problem: Problem, method: str, seed: int, trials: int) -> dict[str, list[float]]:
    """By row of the table, after each of `COLUMNS` that there are so many trials for."""
    judge, given = Judge(problem), problem.references()
    ends = columns = [column for column in COLUMNS if column <= trials]
    searched = SearchProblem(problem.space, problem.goals, trials, seed)
    if method in PEERS:
        archive = archive_of(method, problem, seed, trials)
        points = np.array([*given, *archive.points])
        values = np.array([*map(problem.values, given), *archive.values])
        ends = [len(given) + column for column in columns]
    else:
        sampler = make_sampler(method, searched, {})
        points, values = run(
            sampler, problem.values, measured_first(problem, trials), trials, items=problem.items
        )
    rows = {method: [judge.worth(points[:n], -values[:n]) for n in ends]}
    if method not in PEERS:
        losses = [believed(searched, points[:n], values[:n], problem) for n in columns]
        rows[f"{method} model"] = [
            judge.worth(points[:n], one) for n, one in zip(columns, losses, strict=True)
        ]
    return rows


def lines(names: list[str], goals: list[int], seeds: int, trials: int) -> Iterator[str]:
    """The table, problem after problem."""
    for name in names:
        for count in goals:
            methods = ("auto", "random", "cma" if count == 1 else "nsga2")
            for groups in (1, BLOCKS):
                dimensions = len(PROBLEMS[name](groups, count, 0).space)
                yield f"\n{name}, {dimensions} dimensions, {count} goals, {seeds} seeds"
                for method in methods:
                    start, found = time.process_time(), list[dict[str, list[float]]]()
                    for seed in range(seeds):
                        problem = Remembered(PROBLEMS[name](groups, count, seed))
                        found.append(worths(problem, method, seed, trials))
                    spent = (time.process_time() - start) / seeds / trials
                    for row in found[0]:
                        medians = np.median([rows[row] for rows in found], axis=0)
                        cells = "  ".join(f"{median:.3f}" for median in medians)
                        yield f"  {row:10} {cells}  {spent:.2f} s an evaluation"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--goals", nargs="*", type=int, default=[1, 4])
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    given = parser.parse_args()
    for line in lines(given.problems, given.goals, given.seeds, given.trials):
        print(line, flush=True)


if __name__ == "__main__":
    main()
