"""The published searches beside blind points and CMA-ES, at equal numbers of trials.

    python experiments/search/published.py > experiments/search/published.txt

The best mean accuracy on the search items, and of the same merge on unseen ones; medians over the
seeds.
"""

from __future__ import annotations

import sys

import numpy as np
from compare import landscape, one_goal

SEEDS = range(3)
ONE_GOAL = ((3, 2, 1.2), 120)  # models, bands and conflict; trials


def main() -> None:
    """Prints the table."""
    shape, trials = ONE_GOAL
    sys.stdout.write("2 cores of a shared AMD EPYC box, 24 GB; one thread; loaded\n")
    sys.stdout.write(f"one goal, {trials} trials: accuracy on search items, on unseen items\n")
    for name in ("sobol", "cma", "evo_merging", "lorahub", "pcb_es"):
        pairs = [one_goal(name, landscape(*shape, seed), seed, trials) for seed in SEEDS]
        search, unseen = np.median(pairs, axis=0)
        sys.stdout.write(f"  {name:12} {search:.3f} {unseen:.3f}\n")


if __name__ == "__main__":
    main()
