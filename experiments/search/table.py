"""Tables and plots from the raw runs of `bars.py`: ``bars/LANDSCAPE.txt``, ``.svg``, a summary.

    python experiments/search/table.py

Medians over the seeds, with quartiles of three or more, and the bars' verdicts. Several goals:
`auto` at 50 reaches what each peer reaches at 500, and at 100 what it reaches at 2,000; one goal:
at 50 what CMA-ES as mergekit-evolve has it reaches at 1,000; with 0/1 scores only: at 50 what each
peer reaches at 200. A verdict compares medians over the seeds that both have, and where a peer has
not been run that far, its longest run. A star stands where some runs are of earlier sources of the
sampler.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from bars import COLUMNS, FOLDER, METHODS, current, read_runs, sources
from lines import Line, page
from problems import GOALS, SPACES

MACHINE = "2 cores of a shared AMD EPYC box, 24 GB; one thread"
MODEL = "auto, by its model"
SOURCES = sources()
Runs = Mapping[str, Mapping[int, Mapping[str, float]]]  # by row and seed: worth by column


# Figures that were measured before evomerge had a search, on networks trained otherwise: by how
# much a Gaussian process on items' margins led this peer; a ratio of hypervolumes, or a difference
# of accuracies for one goal.
EARLIER = {
    "digits4/layers/4": ("nsga2", {50: 1.80, 100: 2.12, 200: 2.21}),
    "digits8/layers/4": ("nsga2", {50: 2.09, 100: 2.27, 200: 2.52}),
    "digits4/layers/1": ("cma", {50: 0.021, 100: 0.021, 200: 0.015}),
    "digits8/layers/1": ("cma", {50: 0.051, 100: 0.030, 200: 0.027}),
    "digits8/blocks/1": ("cma", {50: 0.016, 100: 0.010, 200: 0.020}),
}


@dataclass(frozen=True)
class Verdict:
    """One bar: medians over the seeds that both sides have.

    Attributes:
        at, until: merges, of ours and of the peer.
        reached: how many the peer was given; fewer where it has not been run that far.
    """

    ours: str
    at: int
    mine: float
    peer: str
    reached: int
    until: int
    other: float
    seeds: int

    @property
    def lead(self) -> float:
        """Below 0 where the bar is missed."""
        return self.mine - self.other

    def __str__(self) -> str:
        ended = "met" if self.lead >= 0 else f"missed by {-self.lead:.3f}"
        short = "" if self.reached == self.until else f" (not run to {self.until})"
        return (
            f"{self.ours} at {self.at} {self.mine:.3f}, {self.peer} at {self.reached}"
            f"{short} {self.other:.3f}, seeds {self.seeds}: {ended}"
        )


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


def table(runs: Runs, old: Set[str]) -> Iterator[str]:
    """One line per row.

    Args:
        old: methods with runs of earlier sources.
    """
    yield f"  {'':20}{'seeds':>5}" + "".join(f"{column:>20}" for column in COLUMNS)
    for row, by_seed in runs.items():
        star = "*" if row.split(",")[0] in old else ""
        line = "".join(f"{cell(worths(runs, row, column)):>20}" for column in COLUMNS)
        yield f"  {row + star:20}{len(by_seed):5}{line}".rstrip()


def worths(runs: Runs, row: str, column: int) -> list[float]:
    """Of the seeds that were run so far."""
    return [run[str(column)] for run in runs[row].values() if str(column) in run]


def cell(found: Sequence[float]) -> str:
    """The median, and the quartiles where there are three seeds or more."""
    if not found:
        return ""
    low, middle, high = np.quantile(found, (0.25, 0.5, 0.75))
    return f"{middle:.3f}" + (f" ({low:.3f}-{high:.3f})" if len(found) > 2 else "")


def verdicts(runs: Runs, goals: int) -> Iterator[Verdict]:
    """Of the bars whose both sides have been run."""
    if goals == 1:
        bars = [("auto", 50, "cma", 1000), ("auto 0/1", 50, "cma", 200)]
    else:
        peers = [method for method in METHODS if method[:4] != "auto" and method != "random"]
        bars = [("auto", 50, peer, 500) for peer in peers]
        bars += [("auto", 100, peer, 2000) for peer in peers]
        bars += [("auto 0/1", 50, peer, 200) for peer in peers]
    for ours, at, peer, until in bars:
        if ours in runs and peer in runs:
            seeds = [s for s in runs[ours] if s in runs[peer] and str(at) in runs[ours][s]]
            if seeds:
                reached = max(int(c) for c in runs[peer][seeds[0]] if int(c) <= until)
                mine = float(np.median([runs[ours][seed][str(at)] for seed in seeds]))
                other = float(np.median([runs[peer][seed][str(reached)] for seed in seeds]))
                yield Verdict(ours, at, mine, peer, reached, until, other, len(seeds))


def leads(runs: Runs, problem: str) -> Iterator[str]:
    """What `auto` is ahead of a peer by at equal numbers of merges, beside the earlier figures."""
    if problem in EARLIER and {"auto", "auto 200"} <= runs.keys():
        peer, figures = EARLIER[problem]
        if peer in runs:
            ours = {c: "auto 200" if c == 200 else "auto" for c in figures}
            pairs = [[worths(runs, row, c) for row in (ours[c], peer)] for c in figures]
            if all(found for pair in pairs for found in pair):
                medians = np.array([[np.median(found) for found in pair] for pair in pairs])
                now = [a - b if problem.endswith("/1") else a / b for a, b in medians]
                yield (
                    f"  auto against {peer} at {', '.join(map(str, figures))}: "
                    f"{' '.join(f'{one:.3f}' for one in now)}; the figures that the search began "
                    f"from: {' '.join(f'{one:.3f}' for one in figures.values())}"
                )


def summary(judged: Mapping[str, list[Verdict]]) -> Iterator[str]:
    """What was run, how many bars are met, and which are not."""
    seen = list(dict.fromkeys(name.split("/")[0] for name in judged))
    seeds = sorted({v.seeds for found in judged.values() for v in found})
    yield (
        f"{len(seen)} of {len(SPACES)} landscapes ({', '.join(seen)}), {len(judged)} problems; "
        f"seeds of a bar: {' or '.join(map(str, seeds))}"
    )
    kinds = sorted({(v.ours, v.at, v.until) for found in judged.values() for v in found})
    for kind in kinds:
        some = {
            name: [v for v in found if (v.ours, v.at, v.until) == kind]
            for name, found in judged.items()
        }
        count = sum(map(len, some.values()))
        missed = [f"  {name}: {v}" for name, found in some.items() for v in found if v.lead < 0]
        ours, at, until = kind
        yield f"{ours} at {at} against peers at {until}: met {count - len(missed)} of {count}"
        yield from missed


def plot(runs: Runs) -> list[Line]:
    """Medians by the number of merges."""
    made = []
    for row in runs:
        columns = [(column, worths(runs, row, column)) for column in COLUMNS]
        made.append(Line(row, [(c, float(np.median(found))) for c, found in columns if found]))
    return made


def main() -> None:
    """Writes what there are runs for."""
    judged = dict[str, list[Verdict]]()
    for landscape, spaces in SPACES.items():
        raw, told, plots = read_runs(landscape), [MACHINE], list[tuple[str, list[Line]]]()
        for problem in [f"{landscape}/{space}/{goals}" for space in spaces for goals in GOALS]:
            runs = runs_of(raw, problem)
            if runs:
                what = "accuracy" if problem.endswith("/1") else "hypervolume"
                here = [(by, run) for (name, by, _), run in raw.items() if name == problem]
                size = here[0][1]["dimensions"]
                title = f"{problem}: {size} dimensions; {what} on unseen items"
                old = {by for by, run in here if not current(run, SOURCES)}
                judged[problem] = list(verdicts(runs, int(problem[-1])))
                told += ["", title, *table(runs, old), *leads(runs, problem)]
                told += [f"  {verdict}" for verdict in judged[problem]]
                plots.append((title, plot(runs)))
        if plots:
            (FOLDER / f"{landscape}.txt").write_text("\n".join(told) + "\n")
            (FOLDER / f"{landscape}.svg").write_text(page(plots))
    (FOLDER / "summary.txt").write_text("\n".join([MACHINE, *summary(judged)]) + "\n")


if __name__ == "__main__":
    main()
