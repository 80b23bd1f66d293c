"""The samplers ``lorahub`` and ``pcb_es``: one weight per model, and little else.

LoraHub, Huang et al. (2024), COLM, arXiv:2307.13269; the evolution strategy of PCB-Merging, Du et
al. (2024), NeurIPS, arXiv:2410.02396. Both run nevergrad's NGOpt, which at these budgets (40, and
100 to 200) hands over to COBYLA. That proposes in a thread of its own, one point after the result
of the last, so it neither replays nor runs in parallel. In its place stands CMA-ES with the first
step that nevergrad gives such a box, a sixth of its width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.errors import UsageError
from evomerge.interfaces import SearchProblem
from evomerge.search.options import known_options, not_negative, positive, whole
from evomerge.search.staged import Stage, Staged


def lorahub(problem: SearchProblem, options: Mapping[str, Any]) -> Staged:
    """The sampler ``lorahub``: weights in [-1.5, 1.5] from 0, whole task vectors, 40 trials.

    Args:
        options: ``sigma``, the first step in natural units (0.5); ``penalty``, in the goal's units,
            times the mean size of the weights (0.05); ``population_size`` (4 + 3 ln d).

    Raises:
        UsageError: see `Staged`.
    """
    name = "lorahub"
    known_options(name, options, ("sigma", "penalty", "population_size"))
    stage = Stage(
        role="weight",
        low=-1.5,
        high=1.5,
        sigma=positive(name, options, "sigma", 0.5),
        penalty=not_negative(name, options, "penalty", 0.05),
        trials=40,
        population=whole(name, options, "population_size", low=2),
    )
    return Staged(name, problem, (stage,), {"weight": 0.0, "density": 1.0, "scaling": 1.0})


def pcb_es(problem: SearchProblem, options: Mapping[str, Any]) -> Staged:
    """The sampler ``pcb_es``: weights in [0.8, 1.3] from 1, density 0.2, 100 trials.

    These are the authors' numbers for vision models; for language models they take ``low: 0.5,
    high: 3.0`` and 200 trials.

    Args:
        options: ``low`` and ``high``, the box of the weights in natural units; ``sigma``, the first
            step (a sixth of the box); ``population_size`` (4 + 3 ln d).

    Raises:
        UsageError: see `Staged`.
    """
    name = "pcb_es"
    known_options(name, options, ("low", "high", "sigma", "population_size"))
    low = not_negative(name, options, "low", 0.8)
    high = not_negative(name, options, "high", 1.3)
    if not low < high:
        raise UsageError(f"the sampler {name} is given low {low:g} and high {high:g}; low is less")
    stage = Stage(
        role="weight",
        low=low,
        high=high,
        sigma=positive(name, options, "sigma", min(1.0, (high - low) / 6)),
        penalty=0.0,
        trials=100,
        population=whole(name, options, "population_size", low=2),
    )
    return Staged(name, problem, (stage,), {"weight": 1.0, "density": 0.2, "scaling": 1.0})
