"""The initial design of the surrogates' samplers: around task arithmetic, not over the cube.

Merges far from a moderate sum of task vectors are mostly broken, and teach little about those near
it. So the design takes the sum itself, the sum with larger weights, and Gaussian steps, in turn
free for every parameter and smooth over depth. Four points are enough: the references come on top,
and what the surrogate asks for teaches more. Where the models are not among the references, the
design has a point more for every four of them. A pool of many models is mostly of no use, so there
weights and steps are smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from evomerge.interfaces import SearchProblem
from evomerge.merging.method import role_of
from evomerge.randomness import generator
from evomerge.search.quasirandom import folded
from evomerge.space import Array, Parameter
from evomerge.surrogates.structure import structure_of

DESIGN = 4
STEP = 0.15  # standard deviation in the unit cube
_DENSITY = 0.5
_LEAST_WEIGHT = 0.3
_LARGER_WEIGHT = 0.6  # of the second point
_UNKNOWN = 4  # unmeasured models for one more point
_FEW, _CROWDED = 8, 1.5  # models whose weights are not made smaller, and the power for more


def design_size(trials: int | None, unmeasured: int = 0) -> int:
    """How many points: 4 or more, or a third of the budget if that is less.

    Args:
        unmeasured: how many of the models are not among the references.
    """
    size = DESIGN + unmeasured // _UNKNOWN
    return size if trials is None else max(1, min(size, trials // 3))


def models_of(problem: SearchProblem) -> int:
    """How many models have parameters of their own; 0 in a space without coordinates."""
    places = [p.coordinate for p in problem.space.parameters]
    return len({place.model for place in places if place is not None} - {None})


def centre_of(problem: SearchProblem, references: Array) -> Array:
    """Task arithmetic with weights ``max(1 / models, 0.3)`` and density 0.5, ``(d,)``.

    Of more than 8 models 0.3 falls to ``0.3 (8 / models)^1.5``. In a space without coordinates the
    mean of the references, or the middle of the cube.

    Args:
        references: ``(k, d)``, k >= 0.
    """
    if not _known(problem):
        return np.asarray(references.mean(axis=0)) if len(references) else _middle(problem)
    return _constant(problem, _LEAST_WEIGHT)


def centred_point(
    problem: SearchProblem, centre: Array, index: int, *, coarse: bool = False
) -> Array:
    """Point `index` >= 0 of the design, ``(d,)`` in [0, 1].

    Args:
        coarse: steps are the same at every depth.
    """
    if index == 0:
        return centre
    if index == 1 and _known(problem):
        return _constant(problem, _LARGER_WEIGHT)
    rng = generator(problem.seed, "centred", index)
    if not _known(problem):
        step = free_steps(problem)
    elif coarse:
        step = constant_steps(problem)
    else:
        step = smooth_steps(problem) if index % 2 else free_steps(problem)
    return folded(centre + STEP * np.sqrt(_share(problem)) * step(rng, 1)[0])


Steps = Callable[[np.random.Generator, int], Array]


def free_steps(problem: SearchProblem) -> Steps:
    """Draws of independent standard normal steps, ``(n, d)``."""
    return lambda rng, count: rng.normal(size=(count, len(problem.space)))


def smooth_steps(problem: SearchProblem) -> Steps:
    """Draws of standard normal steps that are smooth over depth, each model on its own."""
    return _structured_steps(problem, 1)


def constant_steps(problem: SearchProblem) -> Steps:
    """Draws of standard normal steps that are the same at every depth, each model on its own."""
    return _structured_steps(problem, 0)


def _structured_steps(problem: SearchProblem, share: int) -> Steps:
    structure = structure_of([p.coordinate for p in problem.space.parameters])
    share = share if structure.depths > 1 else 0
    chosen = [i for i, (_, a, b) in enumerate(structure.members) if a == 0 and b == share]
    values, vectors = np.linalg.eigh(structure.components[chosen].sum(axis=0))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return lambda rng, count: rng.normal(size=(count, len(root))) @ root.T


def _known(problem: SearchProblem) -> bool:
    return all(p.coordinate is not None for p in problem.space.parameters)


def _middle(problem: SearchProblem) -> Array:
    return np.full(len(problem.space), 0.5)


def _share(problem: SearchProblem) -> float:
    return float(min(1.0, _FEW / max(models_of(problem), 1)) ** _CROWDED)


def _constant(problem: SearchProblem, weight: float) -> Array:
    parameters = problem.space.parameters
    weight = max(1 / max(models_of(problem), 1), weight * _share(problem))
    wanted = {"weight": weight, "density": _DENSITY}
    middle = problem.space.values(_middle(problem))
    return problem.space.point({p.name: _value(p, wanted, middle[p.name]) for p in parameters})


def _value(parameter: Parameter, wanted: Mapping[str, float], otherwise: float) -> float:
    role = "" if parameter.coordinate is None else role_of(parameter.coordinate.field)
    return min(max(wanted.get(role, otherwise), parameter.low), parameter.high)
