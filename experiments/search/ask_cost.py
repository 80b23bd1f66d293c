"""What an ask of the surrogates' samplers costs on one thread, in seconds of processor time.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python experiments/search/ask_cost.py

A history of simulated merges (random points around the centre, margins linear and quadratic in
them, 2 goals of 300 items) is in the log, four trials are pending. The first ask of a fresh sampler
reads all of it and learns the kernel; the second only fits and proposes. Exits with 1 if the first
takes more than the bars: 1 s at 64 dimensions and 200 trials, 5 s at 640 and 500, 10 s at 1,280
and 200.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from campaign import MemoryLog

from evomerge.interfaces import Asked, ItemLosses, Observation, SearchProblem
from evomerge.search.registry import make_sampler
from evomerge.space import Coordinate, Parameter, Space

GOALS, ITEMS, PENDING = 2, 300, 4
# models, groups, trials, bar
CASES = ((4, 8, 200, 1.0), (20, 16, 500, 5.0), (20, 32, 200, 10.0))
SAMPLERS = ("margin", "margin_evolution", "bayesian", "map")


def space(models: int, groups: int) -> Space:
    """Weights and densities, two per model and group."""
    return Space(
        tuple(
            Parameter(f"m{m}/{g}/{f}", 0.0, 1.0, "linear", Coordinate(f"m{m}", g / groups, None, f))
            for m in range(models)
            for g in range(groups)
            for f in ("weight", "density")
        )
    )


def history(dimensions: int, trials: int) -> MemoryLog:
    """A log of ended trials and four pending ones."""
    rng = np.random.default_rng(0)
    slopes = rng.normal(size=(GOALS, dimensions, ITEMS)) / np.sqrt(dimensions)
    log = MemoryLog()
    for number in range(trials + PENDING):
        point = np.clip(0.5 + 0.15 * rng.normal(size=dimensions), 0, 1)
        log.entries.append(Asked(number, point, number > 4, {}))
        if number < trials:
            inner = np.einsum("d,gdp->gp", point - 0.5, slopes)
            margins = 5 * inner + 10 * inner**2 + 0.1 * rng.normal(size=inner.shape)
            items = tuple(ItemLosses((m > 0).astype(float), m) for m in margins)
            losses = np.array([one.losses.mean() for one in items])
            errors = np.sqrt(losses * (1 - losses) / ITEMS)
            ended = Observation(number, point, losses, 0.0, errors, lambda items=items: items)
            log.entries.append(ended)
    return log


def main() -> int:
    """Prints the table; 1 if a bar is missed."""
    missed = False
    for models, groups, trials, bar in CASES:
        dimensions = models * groups * 2
        log = history(dimensions, trials)
        for name in SAMPLERS:
            problem = SearchProblem(space(models, groups), GOALS, trials + 50, 0)
            sampler, took = make_sampler(name, problem, {}), []
            for ask in range(2):
                start = time.process_time()
                sampler.ask(log, trials + PENDING + ask)
                took.append(time.process_time() - start)
            missed = missed or took[0] > bar
            print(
                f"{dimensions} dimensions, {trials} trials, {GOALS} x {ITEMS} items: {name} "
                f"{took[0]:.2f} s the first ask, {took[1]:.2f} s the next; the bar is {bar:g} s"
            )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
