"""The folder in which the documentation's examples run: tiny models and items of every kind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from evomerge.objectives.llama import Llama, initialise
from evomerge.objectives.llama_config import LlamaConfig
from evomerge.objectives.tokens import ByteTokenizer

TOKENIZER = ByteTokenizer.new(bos_token="<s>", eos_token="</s>")
SHAPE = LlamaConfig(
    vocab_size=TOKENIZER.vocab_size,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=256,
    bos_token_id=256,
    eos_token_id=(257,),
    dtype="bfloat16",
)
CARD = "---\nlicense: apache-2.0\n---\n"


def write_model(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """An ordinary Hugging Face folder of a Llama with byte-level tokens."""
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(SHAPE.to_json()))
    (folder / "README.md").write_text(CARD)
    for file, text in TOKENIZER.files().items():
        (folder / file).write_text(text)


def base_tensors() -> dict[str, torch.Tensor]:
    model = Llama(SHAPE)
    initialise(model, torch.Generator().manual_seed(0))
    # Four times as large, so that the answers are far from uniform.
    return {n: (4 * p.detach()).to(torch.bfloat16) for n, p in model.named_parameters()}


def descended(tensors: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    steps = {name: torch.randn(t.shape, generator=generator) for name, t in tensors.items()}
    return {n: (t.float() + 0.04 * steps[n]).to(torch.bfloat16) for n, t in tensors.items()}


def write_items(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


@pytest.fixture(scope="session")
def example_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages call "your folder"; each page gets a copy."""
    folder = tmp_path_factory.mktemp("documentation")
    base = base_tensors()
    write_model(folder / "models" / "base", base)
    for seed, name in enumerate(("math", "code", "chat"), start=1):
        write_model(folder / "models" / name, descended(base, seed))
    sums = [(a, b) for a in range(5) for b in range(8)]
    additions = [
        {"question": f"{a}+{b}=", "choices": [str(a + b + i) for i in range(3)], "answer": 0}
        for a, b in sums
    ]
    write_items(folder / "arithmetic.jsonl", additions)
    write_items(folder / "capitals.jsonl", [{"prompt": "Paris", "answer": "France"}] * 20)
    write_items(folder / "prose.jsonl", [{"text": f"Page {n} of the book."} for n in range(40)])
    pairs = [{"prompt": f"{n}: ", "chosen": "please", "rejected": "give!"} for n in range(40)]
    write_items(folder / "pairs.jsonl", pairs)
    return folder
