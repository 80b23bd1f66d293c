"""The field's optimizers on our problems, each with the settings of the tool that uses it.

They measure accuracies, as these tools do, one merge at a time in the unit cube. None is a
dependency of evomerge: ``pip install pymoo botorch cma`` beside it.

- ``nsga2``: pymoo's defaults with duplicates removed, as mergenetic makes it; population 25.
- ``nsga3``: pymoo's, with 25 directions for two goals and 35 for four.
- ``cma``: what mergekit-evolve gives to pycma: in natural units, from weights of 1/N and densities
  of 1, sigma 1/6, no bounds; what lies outside of ours is clipped, as it clips densities. It goes
  on when pycma would stop.
- ``tpe``: Optuna's default sampler.
- ``botorch``: a Gaussian process per goal and qLogNEHVI, or qLogNEI for one goal; from 2 (d + 1)
  Sobol points, 24 at most.
- ``random``: uniform points.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from problem import Problem

from evomerge.randomness import derived_seed, generator
from evomerge.space import Array

Measure = Callable[[Array], Array]  # of a point, accuracies; raises Spent
POPULATION = 25
_PARTITIONS = {2: 24, 4: 4}  # of the directions of NSGA-III
_STARTS, _RAW = 4, 64  # of botorch's acquisitions


class Spent(Exception):
    """The budget is."""


class Archive:
    """Measures merges until the budget is spent, and remembers them.

    Attributes:
        points, values: in the order of measuring.
    """

    def __init__(self, problem: Problem, budget: int) -> None:
        self._problem, self._budget = problem, budget
        self.points: list[Array] = []
        self.values: list[Array] = []

    def __call__(self, point: Array) -> Array:
        """Accuracies ``(goals,)`` of a point.

        Raises:
            Spent: if there have been enough.
        """
        if len(self.points) == self._budget:
            raise Spent
        self.points.append(np.array(point, dtype=float))
        self.values.append(self._problem.values(self.points[-1]))
        return self.values[-1]


def archive_of(name: str, problem: Problem, seed: int, budget: int) -> Archive:
    """What a peer measures within a budget."""
    archive = Archive(problem, budget)
    with suppress(Spent):
        PEERS[name](problem, archive, derived_seed(seed, "peers", name) % 2**31)
    return archive


def _random(problem: Problem, measure: Measure, seed: int) -> None:
    rng = generator(seed, "random")
    while True:
        measure(rng.uniform(size=len(problem.space)))


def _evolved(problem: Problem, measure: Measure, seed: int, algorithm: Any) -> None:
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.optimize import minimize

    class Wanted(ElementwiseProblem):
        def __init__(self) -> None:
            super().__init__(n_var=len(problem.space), n_obj=problem.goals, xl=0.0, xu=1.0)

        def _evaluate(self, x: Array, out: dict[str, Any], *_: Any, **__: Any) -> None:
            out["F"] = -measure(x)

    minimize(Wanted(), algorithm, ("n_gen", 10**6), seed=seed)


def _nsga2(problem: Problem, measure: Measure, seed: int) -> None:
    from pymoo.algorithms.moo.nsga2 import NSGA2

    algorithm = NSGA2(pop_size=POPULATION, eliminate_duplicates=True)
    _evolved(problem, measure, seed, algorithm)


def _nsga3(problem: Problem, measure: Measure, seed: int) -> None:
    from pymoo.algorithms.moo.nsga3 import NSGA3
    from pymoo.util.ref_dirs import get_reference_directions

    parts = _PARTITIONS[problem.goals]
    directions = get_reference_directions("das-dennis", problem.goals, n_partitions=parts)
    _evolved(problem, measure, seed, NSGA3(directions, eliminate_duplicates=True))


def _cma(problem: Problem, measure: Measure, seed: int) -> None:
    import cma

    parameters = problem.space.parameters
    models = len(problem.references()) - 2  # beside them the base and the average
    start = [1.0 if p.name.endswith("density") else 1 / models for p in parameters]
    search = cma.CMAEvolutionStrategy(start, 1 / 6, {"seed": seed + 1, "verbose": -9})
    while True:
        found = search.ask()
        losses = []
        for values in found:
            named = {
                p.name: min(max(abs(v) if p.name.endswith("density") else v, p.low), p.high)
                for p, v in zip(parameters, map(float, values), strict=True)
            }
            losses.append(-float(measure(problem.space.point(named))[0]))
        search.tell(found, losses)


def _tpe(problem: Problem, measure: Measure, seed: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(directions=["maximize"] * problem.goals, sampler=sampler)
    names = [parameter.name for parameter in problem.space.parameters]
    while True:
        trial = study.ask()
        point = np.array([trial.suggest_float(name, 0.0, 1.0) for name in names])
        study.tell(trial, measure(point).tolist())


def _botorch(problem: Problem, measure: Measure, seed: int) -> None:
    import torch
    from botorch.acquisition import qLogNoisyExpectedImprovement
    from botorch.acquisition.multi_objective import qLogNoisyExpectedHypervolumeImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.models.transforms import Standardize
    from botorch.optim import optimize_acqf
    from botorch.utils.sampling import draw_sobol_samples
    from gpytorch.mlls import SumMarginalLogLikelihood

    torch.manual_seed(seed)
    size = len(problem.space)
    bounds = torch.tensor([[0.0] * size, [1.0] * size], dtype=torch.double)
    worst = torch.from_numpy(np.min([problem.values(x) for x in problem.references()], axis=0))
    x = draw_sobol_samples(bounds, min(2 * (size + 1), 24), 1, seed=seed)[:, 0]
    y = torch.stack([torch.from_numpy(measure(row.numpy())) for row in x])
    while True:
        models = [SingleTaskGP(x, one, outcome_transform=Standardize(1)) for one in y.split(1, 1)]
        model = ModelListGP(*models)
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        if problem.goals == 1:
            wish: Any = qLogNoisyExpectedImprovement(models[0], x, prune_baseline=True)
        else:
            wish = qLogNoisyExpectedHypervolumeImprovement(
                model, worst.tolist(), x, prune_baseline=True
            )
        new, _ = optimize_acqf(wish, bounds, q=1, num_restarts=_STARTS, raw_samples=_RAW)
        x = torch.cat([x, new])
        y = torch.cat([y, torch.from_numpy(measure(new[0].numpy()))[None]])


PEERS: dict[str, Callable[[Problem, Measure, int], None]] = {
    "random": _random,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "cma": _cma,
    "tpe": _tpe,
    "botorch": _botorch,
}
