"""Writing a PEFT LoRA adapter that every server reads alike.

The scale is folded into the factors: ``lora_alpha`` equals ``r``, the same for all modules, and no
pattern, variant or bias asks the reader for more than ``B @ A``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.checkpoint.adapter import CONFIG, PREFIX, WEIGHTS
from evomerge.checkpoint.checkpoint import bytes_of
from evomerge.checkpoint.dtypes import dtype_word
from evomerge.checkpoint.files import explained
from evomerge.checkpoint.layout import TensorPlan, plan_shards

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModuleFactors:
    """The change of one module's weights.

    Attributes:
        module: its name in the model.
        embedding: whether it is one, whose factors PEFT names and turns otherwise.
        up: ``(out, rank)``, with further dimensions of 1 for a convolution.
        down: ``(rank, in)``, with the further dimensions of a convolution.
    """

    module: str
    embedding: bool
    up: torch.Tensor
    down: torch.Tensor

    def tensors(self, rank: int) -> dict[str, torch.Tensor]:
        """As the file holds them, ranks filled up with zeros."""
        up, down = _widened(self.up, rank, dim=1), _widened(self.down, rank, dim=0)
        stem = PREFIX + self.module
        if self.embedding:
            return {f"{stem}.lora_embedding_A": down, f"{stem}.lora_embedding_B": up}
        return {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}


def write_adapter(
    folder: Path,
    modules: Sequence[ModuleFactors],
    *,
    targets: Sequence[str],
    base: str,
    transposed: bool,
    task: str | None,
) -> int:
    """Write weights and config into a folder that exists; nothing else.

    Args:
        targets: names that the adapted modules end in, and no others.
        base: what the config calls the base model.
        transposed: whether linear layers store their weights as ``(in, out)``.
        task: PEFT's word for what the model does.

    Returns:
        The common rank.

    Raises:
        DiskFullError: there is no space.
    """
    rank = max((module.down.shape[0] for module in modules), default=1)
    tensors = {name: t for module in modules for name, t in module.tensors(rank).items()}
    _write_weights(folder / WEIGHTS, tensors)
    config = {
        "alpha_pattern": {},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "target_modules": list(targets),
        "task_type": task,
        "use_dora": False,
        "use_rslora": False,
    }
    with explained(folder / CONFIG):
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return rank


def _write_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """One safetensors file."""
    layout = [TensorPlan(n, dtype_word(t.dtype), tuple(t.shape)) for n, t in tensors.items()]
    size = sum(plan.size for plan in layout)
    (plan,) = plan_shards(layout, shard_size=max(size, 1))
    with explained(path), path.open("wb") as file:
        file.write(plan.head)
        for name in sorted(plan.offsets, key=lambda name: plan.offsets[name]):
            file.write(bytes_of(tensors[name].contiguous()))


def _widened(factor: torch.Tensor, rank: int, dim: int) -> torch.Tensor:
    shape = list(factor.shape)
    shape[dim] = rank
    whole = factor.new_zeros(shape)
    whole.narrow(dim, 0, factor.shape[dim]).copy_(factor)
    return whole
