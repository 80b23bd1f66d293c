"""Whether the surrogate of `margin` knows what it does not know, on every landscape.

    python experiments/search/honesty.py [--seeds 2] [--problems vit/layers/2 ...]

How many of the measured losses of a campaign's trials 50 to 99 lie inside the intervals of 50 % and
90 % that were foretold when they were asked, four trials ahead, set right by what had come of
earlier forecasts; and, of the surrogate of the first 50 trials, the plain intervals of 50 points
around the centre that no sampler chose; with margins, and with 0/1 scores only. And how much of
their variance is explained.
"""

from __future__ import annotations

import argparse

import numpy as np
from campaign import MemoryLog, observed, run
from problem import Problem, Remembered, measured_first
from problems import make

from evomerge.interfaces import Asked, Log, Prediction, Proposal, SearchProblem
from evomerge.randomness import generator
from evomerge.search.centred import STEP, centre_of
from evomerge.search.knowledge import Knowledge
from evomerge.search.margin import MarginSampler
from evomerge.search.quasirandom import folded
from evomerge.search.reading import forecast_in
from evomerge.space import Array

TRIALS, FITTED, AROUND = 100, 50, 50
NAMES = (
    "digits4/models/2",
    "digits4/layers/1",
    "digits4/layers/4",
    "digits8/layers/1",
    "digits8/layers/4",
    "vit/layers/1",
    "vit/layers/2",
    "language/layers/1",
    "language/layers/2",
)


class Noted:
    """The sampler, with what was foretold of its proposals, set right by the record until then."""

    name = "margin"

    def __init__(self, problem: SearchProblem) -> None:
        self.stated: dict[int, Prediction] = {}
        self._sampler, self._known = MarginSampler(problem), Knowledge(problem, items=False)

    def ask(self, log: Log, number: int) -> Proposal:
        proposal = self._sampler.ask(log, number)
        self._known.follow(log)
        foretold = forecast_in(proposal.note)
        if foretold is not None:
            plain = Prediction(*np.array([foretold]).transpose(2, 0, 1))
            self.stated[number] = self._known.track_record.stated(plain)
        return proposal


def checked(problem: Problem, seed: int) -> Array:
    """Coverages and explained shares, ``(2, 3)``: of the next trials, and of points around."""
    searched = SearchProblem(problem.space, problem.goals, TRIALS, seed)
    sampler = Noted(searched)
    references = measured_first(problem, TRIALS)
    points, values = run(sampler, problem.values, references, TRIALS, items=problem.items)
    log = MemoryLog()
    for number, (point, value) in enumerate(zip(points[:FITTED], values, strict=False)):
        log.entries.append(Asked(number, point, number >= len(references), {}))
        log.entries.append(observed(number, point, value, problem.items))
    surrogate = MarginSampler(searched).surrogate(log)
    centre = centre_of(searched, np.empty((0, len(problem.space))))
    steps = generator(seed, "around").normal(size=(AROUND, len(centre)))
    around = np.array([folded(centre + STEP * step) for step in steps])
    rows = []
    stated = {number: one for number, one in sampler.stated.items() if number >= FITTED}
    columns = [(one.mean[0], one.std[0], one.noise[0]) for one in stated.values()]
    own = Prediction(*(np.array(column) for column in zip(*columns, strict=True)))
    for some, found in ((points[list(stated)], own), (around, surrogate.predict(around))):
        truth = -np.array([problem.values(x) for x in some])
        away = np.abs(truth - found.mean) / found.spread
        unexplained = ((truth - found.mean) ** 2).mean(axis=0) / truth.var(axis=0)
        rows.append([np.mean(away < 0.6745), np.mean(away < 1.6449), 1 - unexplained.mean()])
    return np.array(rows)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--problems", nargs="*", default=list(NAMES))
    given = parser.parse_args()
    for name in given.problems:
        for margins in (True, False):
            tables = [
                checked(Remembered(make(name, seed=seed, margins=margins)), seed)
                for seed in range(given.seeds)
            ]
            for where, row in zip(("next", "around"), np.mean(tables, axis=0), strict=True):
                print(
                    f"{name:18} {'margins' if margins else '0/1':8} {where:7} 50 %: {row[0]:.2f}  "
                    f"90 %: {row[1]:.2f}  explained {row[2]:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
