"""Why TIES here and mergekit's differ on bfloat16 models, entry by entry.

Merges a random base and three models by both, and by the same formula in bfloat16 throughout, as
mergekit computes where the recipe's dtype is bfloat16: task vectors, sum, election, mean and
result are rounded each. Entries with a term at its threshold are left out: there the two differ by
rule (docs/merging.md). Run it with a Python that has mergekit 0.1.5.

    python experiments/speed/ties_bfloat16.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import mergekit.merge_methods.api as oracle
import torch
from safetensors.torch import save_file
from torch import Tensor

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.merger import Merger

DENSITY, SHAPE = 0.3, (1024, 512)


def members() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(SHAPE, generator=generator) * 0.02
    models = [base + torch.randn(SHAPE, generator=generator) * 1e-3 for _ in range(3)]
    return [tensor.bfloat16() for tensor in (base, *models)]


def ours(tensors: list[Tensor]) -> Tensor:
    with tempfile.TemporaryDirectory() as place:
        for i, tensor in enumerate(tensors):
            save_file({"t": tensor}, Path(place, f"{i}.safetensors"))
        base, *models = [Checkpoint.open(Path(place, f"{i}.safetensors")) for i in range(4)]
        settings = {"weight": (1.0,) * 3, "density": (DENSITY,) * 3, "scaling": 1.0}
        return Merger(base, dict(zip("abc", models, strict=True))).tensor("t", settings, "ties")


def theirs(tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
    each: dict[str, Any] = {"weight": dict.fromkeys((1, 2, 3), 1.0)}
    each |= {"density": dict.fromkeys((1, 2, 3), DENSITY), "normalize": True}
    stored = [tensor.to(dtype) for tensor in tensors]
    found: Tensor = oracle.merge_tensors(stored, "ties", parameters=each, base_index=0, dtype=dtype)
    return found.bfloat16()


def trimmed(tensors: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Kept entries of the task vectors, ``(3, *shape)``, and where none is at a threshold."""
    vectors = torch.stack([model.to(dtype) - tensors[0].to(dtype) for model in tensors[1:]])
    codes = vectors.float().abs().view(torch.int32) >> 16
    ordered = codes.flatten(1).sort(descending=True).values
    limit = ordered[:, int(DENSITY * codes[0].numel())].view(-1, 1, 1)
    return vectors * (codes >= limit), (codes != limit).all(0)


def formula(tensors: list[Tensor], dtype: torch.dtype, zero: float) -> Tensor:
    """TIES with weights 1, every step rounded to this dtype; ``zero`` is the sign of a sum of 0."""
    kept, _ = trimmed(tensors, dtype)
    sign = kept.sum(0).sign()
    sign[sign == 0] = zero
    agrees = (kept.sign() == sign) & (kept != 0)
    mean = (kept * agrees).sum(0) / agrees.sum(0).clamp(min=1).to(dtype)
    return (tensors[0].to(dtype) + mean).bfloat16()


def main() -> None:
    torch.set_num_threads(1)
    tensors = members()
    away = trimmed(tensors, torch.float32)[1] & trimmed(tensors, torch.bfloat16)[1]
    results = {
        "ours": ours(tensors),
        "ours by the formula in float32": formula(tensors, torch.float32, 0.0),
        "mergekit, float32": theirs(tensors, torch.float32),
        "mergekit's by the formula in float32, 0 counts as +": formula(tensors, torch.float32, 1.0),
        "mergekit, bfloat16": theirs(tensors, torch.bfloat16),
        "mergekit's by the formula in bfloat16, 0 counts as +": formula(
            tensors, torch.bfloat16, 1.0
        ),
    }
    print(f"entries away from thresholds: {100 * away.double().mean():.1f} %")
    pairs = [(0, 1), (2, 3), (4, 5), (0, 2), (2, 4), (0, 4)]
    names = list(results)
    for one, other in pairs:
        first, second = (results[names[i]].float()[away] for i in (one, other))
        apart = (first - second).abs()
        more = apart > 2**-8 * second.abs() + 1e-8
        print(
            f"{names[one]} against {names[other]}: {100 * more.double().mean():.2f} % differ by "
            f"more than one rounding, by at most {apart.max():.4f}"
        )


if __name__ == "__main__":
    main()
