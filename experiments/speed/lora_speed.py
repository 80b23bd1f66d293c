"""Time of a candidate over LoRA adapters against the bound of the same merge of full models.

The bound moves the bytes of a base, four full models and the output, all bfloat16, and computes
nothing (`merge_speed.bound`). A candidate over adapters reads only base and factors, and computes.
Beside ours: the same sum by torch's matrix product, factors side by side, 256 rows at a time, in
float32 and with the factors rounded to bfloat16, and what that rounding changes.

    python experiments/speed/lora_speed.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from bench import MODELS, Memory, machine, medians, opened, write_models
from merge_speed import bound
from safetensors.torch import save_file
from torch import Tensor

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan

ROWS = 256
WEIGHTS = (0.6, -0.3, 0.8, 0.2)


def matrices(base: Checkpoint) -> list[str]:
    """What the adapters change: all but embeddings and norms."""
    return [n for n, e in base.tensors.items() if n.startswith("layers.") and len(e.shape) == 2]


def write_adapter(folder: Path, base: Checkpoint, rank: int, seed: int) -> Path:
    """Factors whose product is about as large as the full models' task vectors."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    factors: dict[str, Tensor] = {}
    for name in matrices(base):
        rows, columns = base.entry(name).shape
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        factors[f"{stem}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) * 0.01
        factors[f"{stem}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) * 0.004
    save_file(factors, folder / "adapter_model.safetensors")
    targets = ["q", "k", "v", "o", "gate", "up", "down"]
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def candidate(live: LiveMerge, names: list[str], density: float) -> Callable[[], None]:
    """Other numbers for every call, so that every tensor is computed again."""
    count = itertools.count()

    def run() -> None:
        turn = next(count) % 97 / 1000
        numbers = {
            "weight": (0.6 + turn, *WEIGHTS[1:]),
            "density": tuple(min(1.0, density * (1 + i * turn)) for i in range(4)),
        }
        done = live.apply(MergePlan("sparse_signed", MODELS, dict.fromkeys(names, numbers)))
        if done < len(names):
            raise SystemExit(f"only {done} of {len(names)} tensors were computed")

    return run


def side_by_side(adapters: list[Adapter], name: str) -> tuple[Tensor, Tensor]:
    ups, downs = [], []
    for adapter, weight in zip(adapters, WEIGHTS, strict=True):
        change = adapter.changes[name].low_rank
        if change is None:
            raise SystemExit(f"{name} is not adapted")
        up, down = adapter.factors(change, torch.float32)
        ups.append(up * weight)
        downs.append(down)
    return torch.cat(ups, 1), torch.cat(downs)


def by_torch(base: Checkpoint, adapters: list[Adapter], kind: torch.dtype) -> Callable[[], None]:
    jobs = []
    for name in matrices(base):
        up, down = side_by_side(adapters, name)
        stored = base.tensor(name)
        jobs.append((stored, torch.empty_like(stored), up.to(kind), down.to(kind)))

    def run() -> None:
        for stored, out, up, down in jobs:
            for row in range(0, len(stored), ROWS):
                span = slice(row, row + ROWS)
                if kind == torch.bfloat16:
                    torch.addmm(stored[span], up[span], down, out=out[span])
                else:
                    out[span].copy_(torch.addmm(stored[span].float(), up[span], down))

    return run


def rounding(base: Checkpoint, adapters: list[Adapter]) -> None:
    """What bfloat16 factors change: of the task vector, and of the error of the merged weights."""
    name = matrices(base)[0]
    up, down = side_by_side(adapters, name)
    exact = up.double() @ down.double()
    rounded = up.bfloat16().double() @ down.bfloat16().double()
    merged = base.tensor(name).double() + exact
    stored = (base.tensor(name).float() + exact.float()).bfloat16().double()
    other = (base.tensor(name).double() + rounded).float().bfloat16().double()
    share = (rounded - exact).norm() / exact.norm()
    growth = (other - merged).norm() / (stored - merged).norm() - 1
    print(
        f"factors rounded to bfloat16: relative error of the change {share:.1e}; "
        f"error of the merge in bfloat16 {growth:+.2%}"
    )


def compare(folder: Path, rounds: int, rank: int, threads: int) -> None:
    torch.set_num_threads(threads)
    base, models = opened(folder)
    names = matrices(base)
    stem = f"rank-{rank}-threads-{threads}"
    adapters = [
        Adapter.open(write_adapter(folder / f"{stem}-{name}", base, rank, seed))
        for seed, name in enumerate(MODELS)
    ]
    module = Memory(base)
    live = LiveMerge(Merger(base, dict(zip(MODELS, adapters, strict=True))), module)
    moved = Memory(base)
    moved.tensors = {name: moved.tensors[name] for name in names}
    work: dict[str, Callable[[], object]] = {
        "bound": bound([base, *models.values()], moved, threads),
        "all kept": candidate(live, names, 1.0),
        "exact density": candidate(live, names, 0.3),
    }
    if threads == 1:
        work["torch addmm, bfloat16"] = by_torch(base, adapters, torch.bfloat16)
        work["torch addmm, float32"] = by_torch(base, adapters, torch.float32)
    seconds = medians(work, rounds)
    parameters = sum(base.entry(name).count for name in names)
    print(f"| rank {rank}, {threads} threads | ns per parameter | x bound |\n|---|---|---|")
    for form, time in seconds.items():
        print(f"| {form} | {time / parameters * 1e9:.2f} | {time / seconds['bound']:.2f} |")
    if threads == 1:
        rounding(base, adapters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16])
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as place:
        write_models(Path(place), options.layers)
        for rank in options.ranks:
            for threads in (1, 2):
                compare(Path(place), options.rounds, rank, threads)


if __name__ == "__main__":
    main()
