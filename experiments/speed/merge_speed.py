"""A candidate of four models, live, against the memory traffic that it cannot avoid.

The bound moves the same bytes in the same process: it reads base and models from the same maps,
xors them, and writes the module's own memory, in compiled loops without any arithmetic. All
settings change from candidate to candidate, so every tensor is computed each time; densities cut
through the boundary code, so the exact form of the density rule is at work. CPU time of all
threads, medians of interleaved rounds.

    python experiments/speed/merge_speed.py

With mergekit 0.1.5 in the same environment its kernels are timed in rounds with ours.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import itertools
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from bench import MODELS, Memory, machine, medians, opened, write_models
from numpy.typing import NDArray

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
from evomerge.merging.method import Settings
from evomerge.merging.plan import Mask, MergePlan

Words = NDArray[np.uint64]


@numba.njit(nogil=True)
def xor(out: Words, base: Words, a: Words, b: Words, c: Words, d: Words) -> None:
    for j in range(len(out)):
        out[j] = base[j] ^ a[j] ^ b[j] ^ c[j] ^ d[j]


def words(address: int, size: int) -> Words:
    return np.frombuffer((ctypes.c_uint64 * (size // 8)).from_address(address), np.uint64)


def bound(checkpoints: list[Checkpoint], module: Memory, threads: int) -> Callable[[], None]:
    jobs = []
    for name, tensor in module.tensors.items():
        size, addresses = tensor.nbytes, [tensor.data_ptr()]
        for checkpoint in checkpoints:
            address = checkpoint.address(name)
            if address is None:
                raise SystemExit(f"{name} cannot be mapped")
            addresses.append(address)
        jobs.append([words(address, size) for address in addresses])

    def run() -> None:
        if threads == 1:
            for job in jobs:
                xor(*job)
            return
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda job: xor(*job), jobs))

    return run


def settings(method: str, number: int) -> Settings:
    """Other ones for every number."""
    turn = number % 97 / 1000
    sparse = {
        "weight": (0.6, -0.3, 0.8, 0.2),
        "density": (0.2 + turn, 0.5 + turn, 0.3 + turn, 0.4 + turn),
    }
    found: dict[str, Settings] = {
        "task_arithmetic": {"weight": (0.6, -0.3, 0.8, 0.2), "scaling": 0.4 + turn},
        "linear": {"weight": (0.6 + turn, 0.3, 0.8, 0.2)},
        "ties": {"weight": (1.0,) * 4, "density": (0.2 + turn,) * 4, "scaling": 1.0},
    }
    return found.get(method, sparse)


FORMS: dict[str, tuple[str, Mask]] = {
    "sparse_signed, plain mask": ("sparse_signed", "plain"),
    "sparse_signed, smooth mask": ("sparse_signed", "smooth"),
    "sparse_signed, exact mask": ("sparse_signed", "exact"),
    "ties": ("ties", "smooth"),
    "task_arithmetic": ("task_arithmetic", "smooth"),
    "linear": ("linear", "smooth"),
}


def candidate(live: LiveMerge, names: list[str], form: str) -> Callable[[], None]:
    count = itertools.count()

    def run() -> None:
        numbers = settings(form, next(count))
        method, mask = FORMS[form]
        done = live.apply(MergePlan(method, MODELS, dict.fromkeys(names, numbers), mask=mask))
        if done != len(names):
            raise SystemExit(f"only {done} of {len(names)} tensors were computed")

    return run


def compare(folder: Path, rounds: int) -> None:
    """Print the table."""
    base, models = opened(folder)
    names = list(base.tensors)
    parameters = sum(entry.count for entry in base.tensors.values())
    dtypes = "/".join(sorted({entry.dtype for entry in base.tensors.values()}))
    print(f"{parameters / 1e6:.0f} M parameters in {len(names)} tensors, 4 models, {dtypes}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        module = Memory(base)
        live = LiveMerge(Merger(base, models), module)
        work = {"bound": bound([base, *models.values()], module, threads)}
        work |= {form: candidate(live, names, form) for form in FORMS}
        seconds = medians(work, rounds)
        print(f"| {threads} threads | ms | ns per parameter | x bound |\n|---|---|---|---|")
        for form, time in seconds.items():
            each, ratio = time / parameters * 1e9, time / seconds["bound"]
            print(f"| {form} | {time * 1e3:.0f} | {each:.2f} | {ratio:.2f} |")


def mergekit(folder: Path, rounds: int) -> None:
    """Their kernels on one matrix of 4 M entries beside ours, in interleaved rounds.

    Ours merge the whole model: on one matrix what is written would stay in the cache.
    """
    try:
        oracle: Any = importlib.import_module("mergekit.merge_methods.api")
        sparsify: Any = importlib.import_module("mergekit.sparsify")
    except ImportError:
        print("mergekit is not installed here; nothing to compare with")
        return
    torch.set_num_threads(1)
    base, models = opened(folder)
    names, parameters = list(base.tensors), sum(entry.count for entry in base.tensors.values())
    generator = torch.Generator().manual_seed(0)
    stem = torch.randn(2048, 2048, generator=generator) * 0.02
    steps = [torch.randn(2048, 2048, generator=generator) * 1e-4 for _ in MODELS]
    tensors = [stem.bfloat16(), *((stem + step).bfloat16() for step in steps)]
    each = dict.fromkeys(range(1, 5), 1.0)
    third = dict.fromkeys(range(1, 5), 0.3)

    def theirs(method: str, **given: object) -> Callable[[], object]:
        return lambda: oracle.merge_tensors(
            tensors, method, parameters={"weight": each, **given}, base_index=0
        )

    def pruned() -> object:
        """Four task vectors pruned by magnitude and added up, with nothing of their frame."""
        total = tensors[0].float()
        for tensor in tensors[1:]:
            total += sparsify.magnitude(tensor - tensors[0], 0.3)
        return total.bfloat16()

    live = LiveMerge(Merger(base, models), Memory(base))
    pairs: dict[str, tuple[Callable[[], object], str]] = {
        "ties": (theirs("ties", density=third, **{"lambda": 1.0}), "ties"),
        "magnitude": (pruned, "sparse_signed, smooth mask"),
        "task_arithmetic": (theirs("task_arithmetic", **{"lambda": 1.0}), "task_arithmetic"),
    }
    work: dict[str, Callable[[], object]] = {}
    for name, (run, form) in pairs.items():
        work |= {name: run, f"ours, {form}": candidate(live, names, form)}
    seconds = medians(work, rounds)
    for name, (_, form) in pairs.items():
        their, our = seconds[name] / stem.numel(), seconds[f"ours, {form}"] / parameters
        print(f"| {name} | {their * 1e9:.2f} | {form} | {our * 1e9:.3f} | {their / our:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mergekit-rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--dtype", choices=["BF16", "F16", "F32"], default="BF16")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as place:
        write_models(Path(place), options.layers, options.dtype)
        compare(Path(place), options.rounds)
        if options.dtype == "BF16":
            mergekit(Path(place), options.mergekit_rounds)


if __name__ == "__main__":
    main()
