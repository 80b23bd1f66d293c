"""Points that look at nothing: independent uniform ones, and a scrambled Sobol sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.interfaces import Log, Proposal, SearchProblem
from evomerge.randomness import generator
from evomerge.search.options import no_options
from evomerge.space import Array

PointOf = Callable[[int, int, int], Array]


@dataclass(frozen=True)
class Blind:
    """A sampler whose point for a trial depends on the seed and the trial's number alone."""

    name: str
    dimensions: int
    seed: int
    point_of: PointOf

    def ask(self, log: Log, number: int) -> Proposal:
        """The point of that number; the log is not read."""
        return Proposal(self.point_of(self.seed, self.dimensions, number), {})


def random(problem: SearchProblem, options: Mapping[str, Any]) -> Blind:
    """The sampler ``random``; takes no options."""
    no_options("random", options)
    return Blind("random", len(problem.space), problem.seed, uniform_point)


def sobol(problem: SearchProblem, options: Mapping[str, Any]) -> Blind:
    """The sampler ``sobol``; takes no options."""
    no_options("sobol", options)
    return Blind("sobol", len(problem.space), problem.seed, sobol_point)


def uniform_point(seed: int, dimensions: int, index: int) -> Array:
    """An independent uniform point, ``(d,)`` in [0, 1)."""
    return generator(seed, "random", index).random(dimensions)


def sobol_point(seed: int, dimensions: int, index: int, *, stream: str = "sobol") -> Array:
    """Point `index` >= 0 of the seed's scrambled Sobol sequence, ``(d,)`` in [0, 1).

    Owen (1998), J. Complexity 14(4): a scrambled sequence keeps its balance and is unbiased.

    Args:
        stream: names another scrambling of the same seed.
    """
    if dimensions == 0:
        return np.empty(0)
    from scipy.stats.qmc import Sobol

    sequence = Sobol(dimensions, scramble=True, seed=generator(seed, stream))
    if index:
        sequence.fast_forward(index)
    return np.asarray(sequence.random(1)[0], dtype=float)


def folded(x: Array) -> Array:
    """Reflects coordinates at 0 and 1 until they lie between, ``(d,)``."""
    inside = np.mod(x, 2.0)
    return np.where(inside > 1.0, 2.0 - inside, inside)
