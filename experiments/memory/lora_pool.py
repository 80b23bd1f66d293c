"""Peak memory and time of a candidate over a large pool of LoRA adapters.

Writes a small base and adapters of rank 8 to all its matrices; merges them, streamed to disk and
into a live module, each in a fresh process, and prints the peak of resident anonymous memory above
what that process had before (`stream_memory.Peak`); live, the module's own is taken off.

    python experiments/memory/lora_pool.py

Exit code 1 if the peak grows from the smallest to the largest pool by more than the limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from stream_memory import Peak, resident_anonymous
from torch import nn

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.files import staged_folder
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan

LAYERS, RANK = 8, 8
SHAPES = {**dict.fromkeys("qkvo", (1024, 1024)), **dict.fromkeys(("gate", "up"), (2816, 1024))}
DENSITIES = {"all kept": 1.0, "exact density": 0.3}


def names() -> list[str]:
    """Of the adapted modules."""
    return [f"layers.{i}.{part}" for i in range(LAYERS) for part in SHAPES]


def write_base(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{name}.weight": (torch.randn(SHAPES[name.split(".")[2]], generator=generator) * 0.02)
        for name in names()
    }
    folder.mkdir()
    stored = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(stored, folder / "model.safetensors")


def write_adapter(folder: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name in names():
        rows, columns = SHAPES[name.split(".")[2]]
        stem = f"base_model.model.{name}"
        factors[f"{stem}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator) * 0.01
        factors[f"{stem}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator) * 0.004
    folder.mkdir()
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": list(SHAPES)}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def holder(base: Checkpoint) -> nn.Module:
    """A module with the base's parameters."""
    module = nn.Module()
    for name, entry in base.tensors.items():
        room = module
        for part in name.split(".")[:-1]:
            if part not in room._modules:
                room.add_module(part, nn.Module())
            room = room.get_submodule(part)
        empty = torch.zeros(entry.shape, dtype=torch.bfloat16)
        room.register_parameter("weight", nn.Parameter(empty, requires_grad=False))
    return module


def measure(folder: Path, how: str, count: int, density: float) -> None:
    """Merge twice in this process, the second time with other weights.

    Prints the peak above the start, in bytes, and the CPU seconds of both.
    """
    torch.set_num_threads(1)
    torch.ones(8).add_(1)
    base = Checkpoint.open(folder / "base")
    module = holder(base) if how == "live" else None
    peak = Peak()
    before = peak.highest
    peak.start()
    adapters = {f"m{i}": Adapter.open(folder / f"m{i}") for i in range(count)}
    merger = Merger(base, adapters, compiled=True)
    live = None if module is None else LiveMerge(merger, module)
    seconds = []
    for weight in (1 / count, 2 / count):
        numbers = {"weight": (weight,) * count, "density": (density,) * count}
        plan = MergePlan("sparse_signed", tuple(adapters), dict.fromkeys(base.tensors, numbers))
        begin = time.process_time()
        if live is not None:
            live.apply(plan)
        else:
            with staged_folder(folder / "merged", replace=True) as staged:
                merger.write(plan, staged)
        seconds.append(time.process_time() - begin)
    peak.done.set()
    peak.join()
    print(max(peak.highest, resident_anonymous()) - before, *seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 100, 150])
    parser.add_argument("--forms", nargs="+", default=list(DENSITIES), choices=list(DENSITIES))
    parser.add_argument("--limit", type=int, default=300, help="megabytes")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        folder, how, count, density = options.measure
        measure(Path(folder), how, int(count), float(density))
        return 0
    grown = 0.0
    with tempfile.TemporaryDirectory() as place:
        write_base(Path(place, "base"))
        for i in range(max(options.counts)):
            write_adapter(Path(place, f"m{i}"), i)
        size = sum(rows * columns for rows, columns in SHAPES.values()) * LAYERS
        print(f"base: {size / 1e6:.0f} M parameters, a dense task vector {size * 4 / 1e6:.0f} MB")
        for form in options.forms:
            density = DENSITIES[form]
            for how in ("live", "streamed"):
                peaks = []
                for count in options.counts:
                    command = [sys.executable, __file__, "--measure", place, how]
                    command += [str(count), str(density)]
                    answer = subprocess.run(command, capture_output=True, text=True, check=True)
                    peak, first, second = map(float, answer.stdout.split())
                    peaks.append(peak / 1e6)
                    print(
                        f"{form}, {how}, {count} adapters: peak {peak / 1e6:.0f} MB, "
                        f"CPU {first:.1f} s, the next candidate {second:.1f} s",
                        flush=True,
                    )
                grown = max(grown, peaks[-1] - peaks[0])
    print(f"grown by at most {grown:.0f} MB; limit: {options.limit} MB")
    return int(grown > options.limit)


if __name__ == "__main__":
    sys.exit(main())
