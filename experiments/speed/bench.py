"""What the benchmarks share: checkpoints of a small language model's shape, and fair timing.

Values are like those of models fine-tuned in bfloat16: steps of 1e-4 on weights of 0.02, so that
a third of every task vector is zero and ties are the rule. A million of them, again and again,
which no part of a merge can tell.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import torch_dtype
from evomerge.checkpoint.writer import CheckpointWriter

MODELS = ("m1", "m2", "m3", "m4")
LAYERS = 24
BLOCK = 2**20


def shapes(layers: int = LAYERS) -> dict[str, tuple[int, ...]]:
    """266 M parameters in 219 tensors."""
    found: dict[str, tuple[int, ...]] = {"embed.weight": (32000, 1024)}
    for i in range(layers):
        found |= {f"layers.{i}.{part}.weight": (1024, 1024) for part in "qkvo"}
        found |= {f"layers.{i}.{part}.weight": (1792, 1024) for part in ("gate", "up", "down")}
        found |= {f"layers.{i}.norm{part}.weight": (1024,) for part in (1, 2)}
    return found | {"norm.weight": (1024,), "layers.bias": (7,)}


def write_models(folder: Path, layers: int = LAYERS, dtype: str = "BF16") -> None:
    """The base and the models, in a dtype by its safetensors word."""
    for seed, name in enumerate(("base", *MODELS)):
        numbers = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)) * 0.02
        if seed:
            numbers += torch.randn(BLOCK, generator=torch.Generator().manual_seed(seed)) * 1e-4
        block = numbers.to(torch_dtype(dtype))
        (folder / name).mkdir()
        layout = [(tensor, dtype, shape) for tensor, shape in shapes(layers).items()]
        with CheckpointWriter(folder / name, layout) as writer:
            for tensor, shape in shapes(layers).items():
                count = torch.Size(shape).numel()
                for start in range(0, count, BLOCK):
                    writer.write(tensor, start, block[: count - start])
            writer.finish()


def opened(folder: Path) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """The base and the models."""
    models = {name: Checkpoint.open(folder / name) for name in MODELS}
    return Checkpoint.open(folder / "base"), models


class Memory(nn.Module):
    """Parameters with the names and shapes of a checkpoint's tensors."""

    def __init__(self, base: Checkpoint) -> None:
        super().__init__()
        self.tensors = {
            name: nn.Parameter(torch.zeros(entry.shape, dtype=torch_dtype(entry.dtype)))
            for name, entry in base.tensors.items()
        }
        for name, parameter in self.tensors.items():
            *path, last = name.split(".")
            room: nn.Module = self
            for part in path:
                if part not in room._modules:
                    room.add_module(part, nn.Module())
                room = room.get_submodule(part)
            room.register_parameter(last, parameter)


def medians(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU seconds of all threads by name: the median over interleaved rounds, after one to warm."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for done in range(rounds + 1):
        for name, run in work.items():
            start = time.process_time()
            run()
            if done:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def machine() -> str:
    """One line about where this runs."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    return (
        f"{len(names)} x {names[0] if names else platform.processor()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
