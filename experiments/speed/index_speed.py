"""Counting magnitudes of four models against one plain read-and-subtract pass over the same files.

The plain pass reads base and models and forms every difference in torch, in the same chunks, and
keeps nothing. The tables are also written to a cache folder, and found there by a second start. CPU
time on one thread, medians of interleaved rounds.

    python experiments/speed/index_speed.py
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from bench import MODELS, machine, medians, opened, write_models

from evomerge.merging.entries import COMPILED_CHUNK, Inputs, read, spans
from evomerge.merging.index import WORTH_A_FILE, MagnitudeIndex, VectorKey
from evomerge.merging.scratch import Scratch
from evomerge.merging.tally import magnitude_tables


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as place:
        write_models(Path(place), 6)
        base, models = opened(Path(place))
        scratch, every = Scratch(), list(range(len(MODELS)))
        tensors = [Inputs(name, base, list(models.values()), MODELS) for name in base.tensors]
        largest = 0

        def subtract() -> None:
            for inputs in tensors:
                for span in spans(inputs.count, COMPILED_CHUNK):
                    first = scratch.buffer("first", torch.float32, span[1] - span[0])
                    first.copy_(read(base, inputs.name, span, scratch))
                    for model in inputs.models:
                        other = scratch.buffer("other", torch.float32, span[1] - span[0])
                        other.copy_(read(model, inputs.name, span, scratch)).sub_(first)

        def key(inputs: Inputs, i: int) -> VectorKey:
            return VectorKey(inputs.name, MODELS[i], inputs.count, inputs.name, MODELS[i])

        def count(compiled: bool, folder: Path | None = None) -> None:
            nonlocal largest
            index = MagnitudeIndex(folder)
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            for inputs in tensors:
                tables = magnitude_tables(inputs, every, scratch, compiled=compiled)
                for i, table in tables.items():
                    largest = max(largest, table.size)
                    index.add(key(inputs, i), table)

        def find() -> None:
            index = MagnitudeIndex(Path(place, "index"))
            for inputs in tensors:
                found = [index.find(key(inputs, i)) for i in every]
                if inputs.count >= WORTH_A_FILE and None in found:
                    raise SystemExit(f"the tables of {inputs.name} are not there")

        work = {
            "read and subtract": subtract,
            "index, compiled": lambda: count(True),
            "index, compiled, to disk": lambda: count(True, Path(place, "index")),
            "index, from disk": find,
            "index, torch": lambda: count(False),
        }
        seconds = medians(work, 5)
    for name, time in seconds.items():
        ratio = time / seconds["read and subtract"]
        print(f"{name:26s}{time * 1e3:8.0f} ms CPU{ratio:7.2f} x")
    print(f"largest table: {largest / 1e3:.1f} kB per tensor and model")


if __name__ == "__main__":
    main()
