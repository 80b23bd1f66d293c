"""Evo-Merging and what is left of it without its parts, on a pool of adapters with distractors.

    python experiments/search/ablation.py [--seeds 0 1 2 3 4] [--factors]

The sampler `evo_merging` at its published budgets, 400 trials for the densities and 800 for the
weights, minimises the cross-entropy on the search items. The merge of the least one is judged on
unseen items. A part is left out by what is searched: no densities is no denoising, no weights no
scaling (all stay at 1/N), no negative weights unsigned. With ``--factors`` adapters are added
factor by factor, as in the authors' release, where no weight subtracts. One line of JSON per seed
goes to ``ablation.jsonl``; the table is of all that are there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from campaign import run
from pool import Pool

from evomerge.interfaces import SearchProblem
from evomerge.search.registry import make_sampler
from evomerge.space import Array, Parameter, Space

SIGNED, UNSIGNED, DENSITY = (-1.5, 1.5), (0.0, 1.5), (0.0, 1.0)
FIRST, SECOND = 400, 800  # trials
FILE = Path(__file__).with_suffix(".jsonl")


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
SHOWN = ("full", "no denoising")  # whose weights are shown


@dataclass(frozen=True)
class Numbers:
    """Weights and densities of the adapters, ``(n,)`` each."""

    weights: Array
    densities: Array


def searched(pool: Pool, variant: Variant, seed: int) -> tuple[Numbers, Array]:
    """What a campaign hands over, and the densities that its first stage ended with."""
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
    return numbers(points[values[:, 0].argmax()]), numbers(points[-1]).densities


def loss_of(pool: Pool, found: Numbers, *, unseen: bool = False) -> float:
    return pool.losses(found.weights[:, None], found.densities[:, None], unseen=unseen)[0]


def accuracy_of(pool: Pool, found: Numbers) -> float:
    margins = pool.task_margins(found.weights[:, None], found.densities[:, None], unseen=True)[0]
    return float((margins > 0).mean())


def judged(seed: int, *, factors: bool) -> dict[str, Any]:
    """One seed: accuracy and cross-entropy by row, and what `full` found for each adapter."""
    pool = Pool(1, 1, seed=seed, factors=factors)
    n = pool.models
    singles = [Numbers(one, np.ones(n)) for one in np.eye(n)]
    rows = {
        "base": Numbers(np.zeros(n), np.ones(n)),
        "uniform": Numbers(np.full(n, 1 / n), np.ones(n)),
        "best adapter": min(singles, key=lambda one: loss_of(pool, one)),
    }
    densities = {}
    for name, variant in VARIANTS.items():
        rows[name], densities[name] = searched(pool, variant, seed)
    return {
        "seed": seed,
        "factors": factors,
        "kinds": pool.pool.kinds,
        "densities": densities["full"].tolist(),
        "weights": {name: rows[name].weights.tolist() for name in SHOWN},
        "rows": {
            name: [accuracy_of(pool, found), loss_of(pool, found, unseen=True)]
            for name, found in rows.items()
        },
    }


def lines(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Medians and quartiles over seeds; of an adapter's numbers, over seeds and adapters."""
    for name in found[0]["rows"]:
        pairs = [one["rows"][name] for one in found]
        low, middle, high = np.quantile(pairs, (0.25, 0.5, 0.75), axis=0)
        yield (
            f"  {name:22} accuracy {middle[0]:.3f} ({low[0]:.3f}-{high[0]:.3f})  "
            f"cross-entropy {middle[1]:.3f} ({low[1]:.3f}-{high[1]:.3f})"
        )
    for kind in dict.fromkeys(found[0]["kinds"]):
        chosen = np.array(found[0]["kinds"]) == kind
        densities = np.array([one["densities"] for one in found])[:, chosen]
        low, middle, high = np.quantile(densities, (0.25, 0.5, 0.75))
        spread = f"density {middle:.2f} ({low:.2f}-{high:.2f})"
        yield f"  {kind:22} {spread} after the first stage of full"
        for name in SHOWN:
            weights = np.array([one["weights"][name] for one in found])[:, chosen]
            low, middle, high = np.quantile(weights, (0.25, 0.5, 0.75))
            below = np.mean(weights < 0)
            yield (
                f"    {name:20} weight {middle:+.3f} ({low:+.3f} to {high:+.3f}), "
                f"below 0 in {below:.0%}"
            )


def main() -> None:
    """Runs the seeds that are not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(5)))
    parser.add_argument("--factors", action="store_true")
    given = parser.parse_args()
    FILE.touch()
    known = [json.loads(line) for line in FILE.read_text().splitlines()]
    found = [one for one in known if one["factors"] == given.factors]
    for seed in given.seeds:
        if seed not in [one["seed"] for one in found]:
            found.append(judged(seed, factors=given.factors))
            with FILE.open("a") as file:
                file.write(json.dumps(found[-1]) + "\n")
    added = "factor by factor" if given.factors else "as task vectors"
    print(f"adapters added {added}; medians (quartiles) of {len(found)} seeds")
    print(*lines(found), sep="\n")


if __name__ == "__main__":
    main()
