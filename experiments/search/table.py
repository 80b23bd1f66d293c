"""Tables and plots from the raw runs of `bars.py`: ``bars/LANDSCAPE.txt`` and ``.svg``.

    python experiments/search/table.py

Medians (quartiles) over the seeds, and the bars' verdicts. Several goals: `auto` at 50 reaches
what each peer reaches at 500, and at 100 what it reaches at 2,000; one goal: at 50 what CMA-ES as
mergekit-evolve has it reaches at 1,000; with 0/1 scores only: at 50 what each peer reaches at 200.
A verdict compares medians over the seeds that both have, and where a peer has not been run that
far, its longest run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from bars import COLUMNS, FOLDER, METHODS, read_runs
from lines import Line, page
from problems import GOALS, SPACES

from evomerge.space import Array

MACHINE = "2 cores of a shared AMD EPYC box, 24 GB; one thread"
MODEL = "auto, by its model"
Runs = Mapping[str, Mapping[int, Mapping[str, float]]]  # by row and seed: worth by column


def runs_of(raw: Mapping[tuple[str, str, int], Mapping[str, Any]], problem: str) -> Runs:
    """The rows of one problem's table."""
    rows: dict[str, dict[int, Mapping[str, float]]] = {}
    for method in METHODS:
        for (name, by, seed), run in raw.items():
            if (name, by) == (problem, method):
                rows.setdefault(method, {})[seed] = run["found"]
                if method == "auto":
                    rows.setdefault(MODEL, {})[seed] = run["model"]
    return rows


def table(runs: Runs) -> Iterator[str]:
    """One line per row."""
    yield f"  {'':20}{'seeds':>5}" + "".join(f"{column:>20}" for column in COLUMNS)
    for row, by_seed in runs.items():
        cells = [quartiles(runs, row, column) for column in COLUMNS]
        told = (f"{m:.3f} ({a:.3f}-{b:.3f})" if m is not None else "" for a, m, b in cells)
        yield f"  {row:20}{len(by_seed):5}" + "".join(f"{cell:>20}" for cell in told)


def quartiles(runs: Runs, row: str, column: int) -> Array | tuple[None, None, None]:
    """Lower quartile, median, upper quartile over the seeds."""
    found = [run[str(column)] for run in runs[row].values() if str(column) in run]
    return np.quantile(found, (0.25, 0.5, 0.75)) if found else (None, None, None)


def verdicts(runs: Runs, goals: int) -> Iterator[str]:
    """The bars, met or missed by how much."""
    if goals == 1:
        bars = [("auto", 50, "cma", 1000), ("auto 0/1", 50, "cma", 200)]
    else:
        peers = [method for method in METHODS if method not in ("auto", "auto 0/1", "random")]
        bars = [("auto", 50, peer, 500) for peer in peers]
        bars += [("auto", 100, peer, 2000) for peer in peers]
        bars += [("auto 0/1", 50, peer, 200) for peer in peers]
    for ours, at, peer, until in bars:
        if ours in runs and peer in runs:
            yield from verdict(runs[ours], at, runs[peer], until, f"{ours} at {at}", peer)


def verdict(
    ours: Mapping[int, Mapping[str, float]],
    at: int,
    peers: Mapping[int, Mapping[str, float]],
    until: int,
    *names: str,
) -> Iterator[str]:
    """One bar; nothing where no seed has both."""
    seeds = [seed for seed in ours if seed in peers and str(at) in ours[seed]]
    if seeds:
        reached = max(int(c) for c in peers[seeds[0]] if int(c) <= until)
        mine = float(np.median([ours[seed][str(at)] for seed in seeds]))
        other = float(np.median([peers[seed][str(reached)] for seed in seeds]))
        ended = "met" if mine >= other else f"missed by {other - mine:.3f}"
        short = "" if reached == until else f" (not run to {until})"
        yield (
            f"  {names[0]} {mine:.3f}, {names[1]} at {reached} {other:.3f}{short}, "
            f"{len(seeds)} seeds: {ended}"
        )


def plot(runs: Runs) -> list[Line]:
    """Medians by the number of merges."""
    made = []
    for row in runs:
        medians = [(column, quartiles(runs, row, column)[1]) for column in COLUMNS]
        made.append(Line(row, [(column, m) for column, m in medians if m is not None]))
    return made


def main() -> None:
    """Writes what there are runs for."""
    for landscape, spaces in SPACES.items():
        raw, told, plots = read_runs(landscape), [MACHINE], list[tuple[str, list[Line]]]()
        for problem in [f"{landscape}/{space}/{goals}" for space in spaces for goals in GOALS]:
            runs = runs_of(raw, problem)
            if runs:
                goals = int(problem[-1])
                what = "accuracy" if goals == 1 else "hypervolume"
                size = next(run["dimensions"] for (name, *_), run in raw.items() if name == problem)
                title = f"{problem}: {size} dimensions; {what} on unseen items"
                told += ["", title, *table(runs), *verdicts(runs, goals)]
                plots.append((title, plot(runs)))
        if plots:
            (FOLDER / f"{landscape}.txt").write_text("\n".join(told) + "\n")
            (FOLDER / f"{landscape}.svg").write_text(page(plots))


if __name__ == "__main__":
    main()
