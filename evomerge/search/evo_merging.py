"""The sampler ``evo_merging``: densities first, then signed weights (Evo-Merging).

Chen et al. (2025), arXiv:2509.12951, with the numbers of the authors' release. Stage one moves the
densities from 1, with all weights at 1/N, to leave out what is noise; stage two the weights from
1/N, with the best densities, where a negative one subtracts. Each is CMA-ES with a penalty on the
mean size of what moves. The paper has one density and one weight per model; with groups, each
group's move on their own.

Unlike the release, which runs pycma, recombination weights are positive only, and steps beyond the
box are reflected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.interfaces import SearchProblem
from evomerge.recipe.numbers import parts_of
from evomerge.search.options import known_options, not_negative, positive, whole
from evomerge.search.staged import Stage, Staged

_SIGMA = 0.05
_PENALTY = 0.05
_POPULATION = 20
_TRIALS = (400, 800)
_WEIGHTS = (-1.5, 1.5)


def make(problem: SearchProblem, options: Mapping[str, Any]) -> Staged:
    """The sampler ``evo_merging``.

    Args:
        options: ``sigma``, the first step in natural units (0.05); ``penalty``, in the goal's
            units, times the mean of what moves (0.05); ``population_size`` (20, fewer in campaigns
            too short for ten generations of them).

    Raises:
        UsageError: see `Staged`.
    """
    name = "evo_merging"
    known_options(name, options, ("sigma", "penalty", "population_size"))
    sigma = positive(name, options, "sigma", _SIGMA)
    penalty = not_negative(name, options, "penalty", _PENALTY)
    size = whole(name, options, "population_size", low=2)
    models = {parts_of(parameter)[0] for parameter in problem.space.names} - {None}
    stages = (
        Stage("density", 0.0, 1.0, sigma, penalty, _TRIALS[0], size, _POPULATION),
        Stage("weight", *_WEIGHTS, sigma, penalty, _TRIALS[1], size, _POPULATION),
    )
    start = {"density": 1.0, "weight": 1 / max(len(models), 1), "scaling": 1.0}
    return Staged(name, problem, stages, start)
