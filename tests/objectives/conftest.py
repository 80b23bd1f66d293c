"""Tiny models on disk, made from a seed, as ordinary Hugging Face folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from evomerge.objectives.llama import Llama, initialise
from evomerge.objectives.llama_config import LlamaConfig
from evomerge.objectives.tokens import ByteTokenizer

torch.set_num_threads(1)

TOKENIZER = ByteTokenizer.new(bos_token="<s>", eos_token="</s>", pad_token="<pad>", add_bos=True)
SHAPE = LlamaConfig(
    vocab_size=TOKENIZER.vocab_size,
    hidden_size=32,
    intermediate_size=44,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
    rope_theta=5000.0,
    bos_token_id=256,
    eos_token_id=(257,),
    pad_token_id=258,
)

MakeFolder = Callable[..., Path]


def make_model(config: LlamaConfig, seed: int = 0) -> Llama:
    """A model whose answers are far from uniform."""
    model = Llama(config)
    initialise(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model.to(getattr(torch, config.dtype))


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes a model folder; `edit` changes config.json, `fields` the shape."""

    def make(
        name: str = "model",
        *,
        edit: Callable[[dict[str, Any]], None] = lambda config: None,
        tensors: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None,
        tokenizer: ByteTokenizer = TOKENIZER,
        **fields: Any,
    ) -> Path:
        config = replace(SHAPE, **fields)
        folder = tmp_path / name
        folder.mkdir()
        state = {n: p.detach().clone() for n, p in make_model(config).named_parameters()}
        tensors(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        written = config.to_json()
        edit(written)
        (folder / "config.json").write_text(json.dumps(written))
        for file, text in tokenizer.files(max_length=config.max_position_embeddings).items():
            (folder / file).write_text(text)
        return folder

    return make


@pytest.fixture
def write_items(tmp_path: Path) -> Callable[..., Path]:
    """Writes one JSON object per line."""

    def write(*items: Mapping[str, Any], name: str = "items.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
        return path

    return write


@pytest.fixture
def folders(make_folder: MakeFolder) -> dict[str, Path]:
    """A large model of more layers, a base, and a model that is the base with noise."""

    def learn(tensors: dict[str, torch.Tensor]) -> None:
        random = torch.Generator().manual_seed(3)
        for name, tensor in tensors.items():
            tensors[name] = tensor + 0.2 * torch.randn(tensor.shape, generator=random)

    return {
        "large": make_folder("large", num_hidden_layers=3, hidden_size=40, head_dim=10),
        "base": make_folder("base"),
        "math": make_folder("math", tensors=learn),
    }
