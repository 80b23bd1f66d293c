"""What a candidate of four models costs on a CUDA device, against the bytes that it must move.

**Not yet run on a device.** Seven thousand million parameters in bfloat16, or as many layers as fit
into three quarters of the free memory. The bound is the candidate's bytes, (4 + 2) * 2 per
parameter, over the bandwidth of a copy measured in the same run; aim: at most 1.3 times. Only the
launches of the kernel are timed, a tensor each, with all copies on the device.

    python experiments/speed/gpu_speed.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from evomerge.merging.cuda import kernels, launch
from evomerge.merging.fused import Formula

MODELS, ROUNDS = 4, 15
LAYER = [4096 * 4096] * 4 + [4096 * 11008] * 3 + [4096] * 2
"""Entries of the tensors of one of Llama's layers; 32 of them and two embeddings are 6.7e9."""
ENDS = [32000 * 4096] * 2

FORMS = {
    "all kept": (np.array([[0.3]] * MODELS, np.float32), None),
    "mask: plain": (np.array([[0.3, 1e-4]] * MODELS, np.float32), None),
    "mask: smooth": (np.array([[0.3, 1e-4, 2e-4, 0.5]] * MODELS, np.float32), None),
    "ties, mask: smooth": (np.array([[0.3, 1e-4, 2e-4, 0.5]] * MODELS, np.float32), 1.0),
}


def seconds(work: Callable[[], None]) -> float:
    """Median over the rounds, after one that compiles."""
    found = []
    for _ in range(ROUNDS + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def main() -> None:
    if not torch.cuda.is_available() or kernels() is None:
        raise SystemExit("needs a CUDA device, and triton")
    free = torch.cuda.mem_get_info()[0] * 3 // 4 // (2 * (MODELS + 2))
    layers = min(32, (free - sum(ENDS)) // sum(LAYER))
    if layers < 1:
        raise SystemExit("not even one layer fits")
    sizes, made = ENDS + LAYER * layers, torch.Generator("cuda").manual_seed(0)

    def tensor(size: int, scale: float) -> Tensor:
        return torch.empty(size, dtype=torch.bfloat16, device="cuda").normal_(
            std=scale, generator=made
        )

    bases = [tensor(size, 0.02) for size in sizes]
    sources = [[base, *(base + tensor(len(base), 2e-4) for _ in range(MODELS))] for base in bases]
    outs = [torch.empty_like(base) for base in bases]
    name, count = torch.cuda.get_device_name(), sum(sizes)
    print(f"{name}, torch {torch.__version__}: {count / 1e9:.2f}e9 parameters, {layers} layers")

    def copy() -> None:
        for out, base in zip(outs, bases, strict=True):
            out.copy_(base)

    bandwidth = 2 * 2 * count / seconds(copy)
    bound = 2 * (MODELS + 2) * count / bandwidth
    print(f"copies: {bandwidth / 1e9:.0f} GB/s; bound: {bound * 1e3:.2f} ms")
    for label, (rules, scaling) in FORMS.items():
        form = Formula(tuple(range(MODELS)), rules, scaling)

        def merge(form: Formula = form) -> None:
            for out, entries in zip(outs, sources, strict=True):
                launch(form, out, entries)

        took = seconds(merge)
        print(f"{label:20} {took * 1e3:8.2f} ms {took / bound:6.2f} x bound")


if __name__ == "__main__":
    main()
