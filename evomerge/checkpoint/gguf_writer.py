"""Writing a LoRA adapter, or some of its modules, as a GGUF file that llama.cpp loads.

A file holds ``<name>.lora_a``, ``(rank, in)``, and ``<name>.lora_b``, ``(out, rank)``, for each
module, in float32, and ``adapter.lora.alpha``; llama.cpp's factor is ``scale * alpha / rank``.
Where the adapter's own factor is another (rsLoRA, patterns), ``lora_b`` makes up for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evomerge.checkpoint.adapter import Adapter, LowRank
from evomerge.checkpoint.gguf_names import LlamaNames
from evomerge.checkpoint.names import shown
from evomerge.errors import CheckpointError

if TYPE_CHECKING:
    from numpy import ndarray


def write_gguf_adapter(
    path: Path, adapter: Adapter, modules: Mapping[str, LowRank], names: LlamaNames
) -> None:
    """Write a file.

    Args:
        modules: those that the file changes, by llama.cpp's name; none makes an empty adapter.

    Raises:
        CheckpointError: if factors are not finite, or of another base.
    """
    import gguf

    alpha = adapter.settings.alpha or 1.0  # 0 would mean to the server that there is no alpha
    writer = gguf.GGUFWriter(path, names.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for name, weights in modules.items():
        down, up = _factors(adapter, weights, alpha, names)
        writer.add_tensor(f"{name}.lora_a", down)
        writer.add_tensor(f"{name}.lora_b", up)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _factors(
    adapter: Adapter, weights: LowRank, alpha: float, names: LlamaNames
) -> tuple[ndarray, ndarray]:
    """``lora_a`` and ``lora_b``; of embeddings, the first is ``(in, rank)``."""
    up, down = adapter.plain_factors(weights, torch.float32)
    if not (up.isfinite().all() and down.isfinite().all()):
        raise CheckpointError(
            f"has NaN or infinite entries in {weights.module}", place=shown(adapter.path)
        )
    up *= weights.scale / (alpha / weights.rank)  # 1 to the bit for plain LoRA
    up = names.rows(weights.module, up)
    down = down.T if weights.embedding else down
    return down.contiguous().numpy(), up.contiguous().numpy()
