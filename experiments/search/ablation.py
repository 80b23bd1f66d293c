"""Evo-Merging and what is left of it without its parts, on a pool of adapters with distractors.

    python experiments/search/ablation.py [--seeds 10] [--factors]

The sampler `evo_merging` at its published budgets, 400 trials for the densities and 800 for the
weights, minimises the cross-entropy on the search items. The merge of the least one is judged on
unseen items. A part is left out by what is searched: no densities is no denoising, no weights no
scaling (all stay at 1/N), no negative weights unsigned. With ``--factors`` adapters are added
factor by factor, as in the authors' release, where no weight subtracts.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from campaign import run
from pool import Pool

from evomerge.interfaces import SearchProblem
from evomerge.search.registry import make_sampler
from evomerge.space import Array, Parameter, Space

SIGNED, UNSIGNED, DENSITY = (-1.5, 1.5), (0.0, 1.5), (0.0, 1.0)
FIRST, SECOND = 400, 800  # trials


@dataclass(frozen=True)
class Variant:
    """What is searched: the weights' range, None for 1/N; whether densities are; the trials."""

    weights: tuple[float, float] | None
    densities: bool
    trials: int


VARIANTS: Mapping[str, Variant] = {
    "full": Variant(SIGNED, True, FIRST + SECOND),
    "unsigned": Variant(UNSIGNED, True, FIRST + SECOND),
    "no denoising": Variant(SIGNED, False, SECOND),
    "unsigned, no denoising": Variant(UNSIGNED, False, SECOND),
    "no denoising, as long": Variant(SIGNED, False, FIRST + SECOND),
    "no scaling": Variant(None, True, FIRST),
}


@dataclass(frozen=True)
class Numbers:
    """Weights and densities of the adapters, ``(n,)`` each."""

    weights: Array
    densities: Array


def searched(pool: Pool, variant: Variant, seed: int) -> tuple[Numbers, Numbers]:
    """What a campaign hands over, and the numbers of its best trial of the densities' stage."""
    names = [f"m{i}/0" for i in range(pool.models)]
    parameters = [Parameter(f"{n}/weight", *variant.weights) for n in names if variant.weights]
    parameters += [Parameter(f"{n}/density", *DENSITY) for n in names if variant.densities]
    space = Space(tuple(parameters))

    def numbers(point: Array) -> Numbers:
        values = space.values(point)
        return Numbers(
            np.array([values.get(f"{name}/weight", 1 / pool.models) for name in names]),
            np.array([values.get(f"{name}/density", 1.0) for name in names]),
        )

    def measure(point: Array) -> Array:
        return np.array([-loss_of(pool, numbers(point))])

    problem = SearchProblem(space, 1, variant.trials, seed)
    sampler = make_sampler("evo_merging", problem, {})
    points, values = run(sampler, measure, [], variant.trials, lookahead=0)
    last = numbers(points[-1])
    first = Numbers(np.full(pool.models, 1 / pool.models), last.densities)
    return numbers(points[values[:, 0].argmax()]), first


def loss_of(pool: Pool, found: Numbers, *, unseen: bool = False) -> float:
    return pool.losses(found.weights[:, None], found.densities[:, None], unseen=unseen)[0]


def accuracy_of(pool: Pool, found: Numbers) -> float:
    margins = pool.task_margins(found.weights[:, None], found.densities[:, None], unseen=True)[0]
    return float((margins > 0).mean())


def lines(seeds: int, factors: bool) -> Iterator[str]:
    """Of one way to add adapters."""
    judged: dict[str, list[tuple[float, float]]] = defaultdict(list)
    densities: dict[str, list[float]] = defaultdict(list)
    weights: dict[str, list[float]] = defaultdict(list)
    for seed in range(seeds):
        pool = Pool(1, 1, seed=seed, factors=factors)
        kinds, n = np.array(pool.pool.kinds), pool.models
        rows = {
            "base": Numbers(np.zeros(n), np.ones(n)),
            "uniform": Numbers(np.full(n, 1 / n), np.ones(n)),
        }
        singles = [Numbers(one, np.ones(n)) for one in np.eye(n)]
        rows["best adapter"] = min(singles, key=lambda one: loss_of(pool, one))
        for name, variant in VARIANTS.items():
            rows[name], first = searched(pool, variant, seed)
            if name == "full":
                for kind in dict.fromkeys(kinds.tolist()):
                    densities[kind] += first.densities[kinds == kind].tolist()
                    weights[kind] += rows[name].weights[kinds == kind].tolist()
        for name, found in rows.items():
            judged[name].append((accuracy_of(pool, found), loss_of(pool, found, unseen=True)))
    for name, pairs in judged.items():
        low, middle, high = np.quantile(np.array(pairs), (0.25, 0.5, 0.75), axis=0)
        yield (
            f"  {name:22} accuracy {middle[0]:.3f} ({low[0]:.3f}-{high[0]:.3f})  "
            f"cross-entropy {middle[1]:.3f} ({low[1]:.3f}-{high[1]:.3f})"
        )
    for kind in densities:
        low, middle, high = np.quantile(densities[kind], (0.25, 0.5, 0.75))
        negative = np.mean(np.array(weights[kind]) < 0)
        yield (
            f"  {kind:11} density {middle:.2f} ({low:.2f}-{high:.2f})  weight "
            f"{np.median(weights[kind]):+.3f}, negative in {negative:.0%}"
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--factors", action="store_true")
    given = parser.parse_args()
    print(
        "factor by factor" if given.factors else "as task vectors", f"{given.seeds} seeds", sep=", "
    )
    for line in lines(given.seeds, given.factors):
        print(line, flush=True)


if __name__ == "__main__":
    main()
