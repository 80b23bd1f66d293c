"""Our default search beside the field's, on every landscape: raw runs, for `table.py`.

    OMP_NUM_THREADS=1 python experiments/search/bars.py --minutes 8 [--seeds 10] [--landscapes vit]
    python experiments/search/table.py

The peers of `peers.py`, MAP and `auto`; a seed decides the search items and the search. A peer's
column n is what it would hand over after n merges of its own, with the references (base, models,
average) given to it for nothing; of `auto` and `map` those count that a campaign measures. `auto`
is asked four trials ahead, as four workers would. One line of JSON per run goes to
``bars/LANDSCAPE.jsonl`` as soon as it has ended, and what stands there is not run again;
``--fresh`` runs `auto` and `map` again where their sources have changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from campaign import run
from judging import Judge
from margins import believed
from peers import PEERS, archive_of
from problem import Problem, Remembered, measured_first
from problems import GOALS, SPACES, make

import evomerge
from evomerge.interfaces import SearchProblem
from evomerge.search.registry import make_sampler

FOLDER = Path(__file__).parent / "bars"
COLUMNS = (25, 50, 100, 200, 500, 1000, 2000)
Found = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        goals: with so many it is run.
        runs: each a run of its own to so many merges; a column is told by the first that has it.
        seeds: at most so many of them.
    """

    goals: tuple[int, ...]
    runs: tuple[int, ...]
    seeds: int = 100


METHODS: Mapping[str, Method] = {
    "auto": Method(GOALS, (100,)),
    "auto 0/1": Method(GOALS, (50,)),
    "auto 200": Method(GOALS, (200,), seeds=3),
    "nsga2": Method((2, 4), (2000,)),
    "nsga3": Method((2, 4), (2000,)),
    "cma": Method((1,), (1000,)),
    "random": Method(GOALS, (500,)),
    "tpe": Method(GOALS, (500,)),
    "map": Method(GOALS, (50, 200, 500), seeds=3),
    "botorch": Method(GOALS, (100,), seeds=2),
}
SLOW = {"language": 500}
"""Landscapes that measure ten merges a second: no run is longer there."""
_EARLIER = {
    "bd81f9c49228",
    "64e346da3960",
    "77d913883b9c",
    "516537ecd8e5",
    "cfb32db7112a",
    "ca11f5cc1eff",
}
ALIKE = {"fa0d764e35ee": _EARLIER}
"""By a mark of sources: earlier ones whose asks are the same here, as a few runs of each showed.
What changed after the first is for trials that fail or race, and losses without standard errors;
after the third for pools and wide spaces, after the fourth for races, after the fifth for wide
spaces whose models are not measured, after the last for no ask. No run on the pool is kept from
before the fourth, and no race from before the fifth."""


def sources() -> str:
    """A mark of the code that `auto` and `map` run."""
    root = Path(evomerge.__file__).parent
    files = [f for folder in ("search", "surrogates") for f in sorted((root / folder).glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def current(run: Mapping[str, Any], mark: str) -> bool:
    """Whether a run is of sources with this mark or alike; a peer's always is."""
    return run.get("sources", mark) in {mark, *ALIKE.get(mark, ())}


def found(problem: Problem, method: str, seed: int, runs: Sequence[int]) -> Found:
    """The worth of what is handed over, by column; ``model`` by what the surrogate believes."""
    judge, rows = Judge(problem), {"found": dict[str, float](), "model": dict[str, float]()}
    given = problem.references()
    for trials in runs:
        columns = [c for c in COLUMNS if c <= trials and str(c) not in rows["found"]]
        if method in PEERS:
            archive = archive_of(method, problem, seed, trials)
            points = np.array([*given, *archive.points])
            values = np.array([*map(problem.values, given), *archive.values])
            ends = [len(given) + column for column in columns]
        else:
            searched = SearchProblem(problem.space, problem.goals, trials, seed)
            sampler = make_sampler(method.split()[0], searched, {})
            first = measured_first(problem, trials)
            points, values = run(sampler, problem.values, first, trials, items=problem.items)
            columns = [trials] if method == "map" else columns
            ends = columns
        for column, end in zip(map(str, columns), ends, strict=True):
            rows["found"][column] = judge.worth(points[:end], -values[:end])
            if method.startswith("auto"):
                losses = believed(searched, points[:end], values[:end], problem)
                rows["model"][column] = judge.worth(points[:end], losses)
    return {name: {k: round(v, 5) for k, v in row.items()} for name, row in rows.items() if row}


def jobs(given: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Problem, method and seed: all landscapes first, then more seeds."""
    for seed in range(given.seeds):
        for landscape, space, goals in product(given.landscapes, given.spaces, given.goals):
            if space in SPACES[landscape]:
                for method in given.methods:
                    row = METHODS[method]
                    if goals in row.goals and seed < row.seeds:
                        yield f"{landscape}/{space}/{goals}", method, seed


def main() -> None:
    """Runs what is wanted and not there yet, until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--landscapes", nargs="*", default=list(SPACES), choices=list(SPACES))
    parser.add_argument("--spaces", nargs="*", default=["models", "layers"])
    parser.add_argument("--goals", nargs="*", type=int, default=list(GOALS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--fresh", action="store_true")
    given = parser.parse_args()
    end, mark = time.monotonic() + 60 * given.minutes, sources()
    done = {one: read_runs(one) for one in given.landscapes}
    for name, method, seed in jobs(given):
        landscape = name.split("/")[0]
        known = done[landscape].get((name, method, seed))
        if known and (current(known, mark) or not given.fresh):
            continue
        if time.monotonic() > end:
            break
        problem = Remembered(make(name, seed=seed, margins=method != "auto 0/1"))
        most = SLOW.get(landscape, max(COLUMNS))
        runs = sorted({min(trials, most) for trials in METHODS[method].runs})
        start = time.process_time()
        row = {"problem": name, "dimensions": len(problem.space), "method": method, "seed": seed}
        row |= found(problem, method, seed, runs)
        row["seconds"] = round(time.process_time() - start, 1)
        if method not in PEERS:
            row["sources"] = mark
        FOLDER.mkdir(exist_ok=True)
        with (FOLDER / f"{landscape}.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def read_runs(landscape: str) -> dict[tuple[str, str, int], dict[str, Any]]:
    """By problem, method and seed; a later line stands for an earlier one."""
    file = FOLDER / f"{landscape}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {(row["problem"], row["method"], row["seed"]): row for row in rows}


if __name__ == "__main__":
    main()
