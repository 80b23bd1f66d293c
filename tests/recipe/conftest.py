"""Tiny model folders on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from evomerge.recipe.findings import Finding

Make = Callable[..., Path]

CONFIG = {"model_type": "llama", "vocab_size": 4, "hidden_size": 2, "tie_word_embeddings": False}
TOKENIZER = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}}, "added_tokens": []}
CARD = "---\nlicense: apache-2.0\n---\n"


def tensors(layers: int = 2) -> dict[str, torch.Tensor]:
    """The tensors of a decoder with layers of two matrices and a norm."""
    made = {"model.embed_tokens.weight": torch.ones(4, 2)}
    for i in range(layers):
        made |= {
            f"model.layers.{i}.self_attn.q_proj.weight": torch.ones(2, 2),
            f"model.layers.{i}.mlp.up_proj.weight": torch.ones(2, 2),
            f"model.layers.{i}.input_layernorm.weight": torch.ones(2),
        }
    return made | {"model.norm.weight": torch.ones(2), "lm_head.weight": torch.ones(4, 2)}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a model folder; any of its parts can be given instead of the usual one."""

    def write(
        name: str,
        *,
        weights: dict[str, torch.Tensor] | None = None,
        config: dict[str, Any] | None = CONFIG,
        tokenizer: dict[str, Any] | None = TOKENIZER,
        card: str | None = CARD,
        template: str | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        save_file(tensors() if weights is None else weights, folder / "model.safetensors")
        for file, document in (("config.json", config), ("tokenizer.json", tokenizer)):
            if document is not None:
                (folder / file).write_text(json.dumps(document))
        for file, text in (("README.md", card), ("chat_template.jinja", template)):
            if text is not None:
                (folder / file).write_text(text)
        return folder

    return write


def said(findings: list[Finding], severity: str) -> list[str]:
    """``about: text`` of the findings of one severity."""
    return [f"{f.about}: {f.text}" for f in findings if f.severity == severity]
