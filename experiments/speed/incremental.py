"""What a candidate costs that differs from the one before in 1, 3 or 12 of 24 layers.

CPU time on one thread as a share of a candidate in which everything changes.

    python experiments/speed/incremental.py
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from bench import LAYERS, MODELS, Memory, machine, medians, opened, write_models

from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as place:
        write_models(Path(place))
        base, models = opened(Path(place))
        live, turn = LiveMerge(Merger(base, models), Memory(base)), itertools.count(1)
        first = {"weight": (0.5,) * 4, "density": (0.3,) * 4}
        tensors = dict.fromkeys(base.tensors, first)

        def change(layers: int) -> Callable[[], None]:
            prefixes = tuple(f"layers.{i}." for i in range(layers))

            def run() -> None:
                step = next(turn) % 97 / 1000
                numbers = {"weight": (0.5 + step,) * 4, "density": (0.3 + step,) * 4}
                for name in tensors:
                    if layers == LAYERS or name.startswith(prefixes):
                        tensors[name] = numbers
                live.apply(MergePlan("sparse_signed", MODELS, dict(tensors)))

            return run

        work = {layers: change(layers) for layers in (LAYERS, 1, 3, 12)}
        seconds = medians({f"{n} of {LAYERS} layers": run for n, run in work.items()}, 7)
    whole = seconds[f"{LAYERS} of {LAYERS} layers"]
    for name, time in seconds.items():
        print(f"| {name} | {time * 1e3:.1f} | {100 * time / whole:.1f} % |")


if __name__ == "__main__":
    main()
