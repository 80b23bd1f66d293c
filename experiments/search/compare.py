"""Samplers at equal numbers of trials on merging-like landscapes; prints medians over seeds.

    python experiments/search/compare.py > experiments/search/compare.txt

Several goals: hypervolume of the front on the search items, and of the same front on items that no
search sees. One goal, the mean accuracy: the best found, and the same merge on unseen items.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
from campaign import run, volume
from landscape import Landscape

from evomerge.interfaces import SearchProblem
from evomerge.search.registry import make_sampler
from evomerge.space import Array

SEEDS = range(5)
# (models, bands, conflict): 12 parameters, 12, 24 and 24
LANDSCAPES = ((2, 3, 1.5), (3, 2, 1.2), (3, 4, 0.9), (4, 3, 1.2))
TRIALS = (60, 120)


@cache
def landscape(models: int, bands: int, conflict: float, seed: int) -> Landscape:
    return Landscape(seed, models=models, bands=bands, conflict=conflict)


def several_goals(sampler: str, world: Landscape, seed: int, trials: int) -> tuple[float, float]:
    problem = SearchProblem(world.space, world.models, trials, seed)
    made = make_sampler(sampler, problem, {})
    points, values = run(made, world.values, world.references(), trials)
    unseen = np.array([world.values(point, unseen=True) for point in points])
    ends = slice(world.models + 1)  # the base and the models bound the hypervolume
    return volume(values, values[ends]), volume(unseen, unseen[ends], front_of=values)


def one_goal(sampler: str, world: Landscape, seed: int, trials: int) -> tuple[float, float]:
    def mean(point: Array) -> Array:
        return world.values(point).mean(keepdims=True)

    made = make_sampler(sampler, SearchProblem(world.space, 1, trials, seed), {})
    points, values = run(made, mean, world.references(), trials)
    best = points[values[:, 0].argmax()]
    return float(values.max()), float(world.values(best, unseen=True).mean())


def rows() -> Iterator[str]:
    for trials in TRIALS:
        for shape in LANDSCAPES:
            models, bands, conflict = shape
            yield f"\n{models} models, {bands} bands, conflict {conflict}: {trials} trials"
            for measure, samplers in MEASURES.items():
                yield f" {measure.__name__.replace('_', ' ')}"
                yield from medians(measure, samplers, shape, trials)


def medians(
    measure: Measure, samplers: Sequence[str], shape: tuple[int, int, float], trials: int
) -> Iterator[str]:
    results = {
        sampler: np.array(
            [measure(sampler, landscape(*shape, seed), seed, trials) for seed in SEEDS]
        )
        for sampler in samplers
    }
    for sampler, pairs in results.items():
        search, unseen = np.median(pairs, axis=0)
        ahead = int(np.sum(pairs[:, 0] > results["sobol"][:, 0]))
        yield (
            f"  {sampler:6} search items {search:.4f}, unseen items {unseen:.4f}, "
            f"ahead of sobol in {ahead} of {len(SEEDS)} seeds"
        )


Measure = Callable[[str, Landscape, int, int], tuple[float, float]]
MEASURES: dict[Measure, tuple[str, ...]] = {
    several_goals: ("auto", "sobol", "nsga2", "tpe"),
    one_goal: ("auto", "sobol", "cma", "tpe"),
}


if __name__ == "__main__":
    for row in rows():
        sys.stdout.write(row + "\n")
        sys.stdout.flush()
