"""The default sampler against quasi-random search on the demo's campaign, at equal trials.

    evomerge demo demo
    python experiments/demo/samplers.py demo --seeds 5

Every run is an ordinary campaign over the demo's models and goals; only sampler and seed differ.
All runs share base, parents and items, and so the reference point. Two hypervolumes are printed:
of the front on the search items, which chose it, and on the test items of the confirmed front,
which chose nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from evomerge.goals import losses, reference_point
from evomerge.pareto import hypervolume
from evomerge.recipe.campaign import Campaign
from evomerge.space import Array
from evomerge.study.loop import run
from evomerge.study.study import Study
from evomerge.trial import Trial

SAMPLERS = ("auto", "sobol")


def measure(
    demo: Path, sampler: str, seed: int, trials: int | None, workers: int
) -> dict[str, Any]:
    """Run one campaign in a folder of its own; its two hypervolumes."""
    text = yaml.safe_load((demo / "campaign.yaml").read_text("utf-8"))
    text.update(sampler=sampler, seed=seed)
    text.pop("export", None)
    with tempfile.TemporaryDirectory(dir=demo) as scratch:
        text["study"] = f"{scratch}/study.evomerge"
        if trials is not None:
            text["budget"] = {"trials": trials}
        source = yaml.safe_dump(text, sort_keys=False)
        campaign = Campaign.parse(source, demo / "campaign.yaml")
        with Study.open(campaign) as study:
            run(study, workers=workers)
            return values_of(study)


def values_of(study: Study) -> dict[str, Any]:
    """Hypervolumes by split, and after each trial.

    On the test items the reference point is made of the base's and the parents' test values, by
    the rule that made the study's own of their search values.
    """
    anchors = [study.trial(number) for number in study.charter.anchors]
    reference = reference_point(study.goals, test_losses(study, anchors))
    confirmed = test_losses(study, study.front("selection"))
    return {
        "search": study.hypervolume(),
        "test": hypervolume(confirmed, reference),
        "trials": study.spend().trials,
        "by trial": [round(point.hypervolume, 6) for point in study.history()],
    }


def test_losses(study: Study, trials: Sequence[Trial]) -> Array:
    """``(n, m)``; trials without test values are left out."""
    measured = [values for trial in trials if (values := trial.values("test")) is not None]
    return losses(study.goals, measured)


def main() -> None:
    """Run all, print medians and write the results beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("samplers.json"))
    arguments = parser.parse_args()
    demo = arguments.demo.resolve()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SAMPLERS}
    for seed in range(arguments.seeds):
        for name in SAMPLERS:  # interleaved, so that both see the same machine
            found[name].append(measure(demo, name, seed, arguments.trials, arguments.workers))
            last = found[name][-1]
            print(
                f"seed {seed} {name:6} search {last['search']:.5f} test {last['test']:.5f}",
                flush=True,
            )
    medians = {
        name: {split: statistics.median(row[split] for row in rows) for split in ("search", "test")}
        for name, rows in found.items()
    }
    arguments.out.write_text(json.dumps({"medians": medians, "runs": found}, indent=1) + "\n")
    for name, by_split in medians.items():
        print(f"median {name:6} search {by_split['search']:.5f} test {by_split['test']:.5f}")
    ratio = medians["auto"]["search"] / medians["sobol"]["search"]
    wins = sum(
        a["search"] > s["search"] for a, s in zip(found["auto"], found["sobol"], strict=True)
    )
    print(f"auto / sobol: {ratio:.3f} on the search items; auto wins {wins} of {arguments.seeds}")


if __name__ == "__main__":
    main()
