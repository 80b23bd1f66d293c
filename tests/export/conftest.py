"""A tiny real campaign: Llama folders, a told study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evomerge.objectives.llama import Llama, initialise
from evomerge.objectives.llama_config import LlamaConfig
from evomerge.objectives.tokens import ByteTokenizer
from evomerge.randomness import torch_generator
from evomerge.study.study import Study

CAMPAIGN = """
base: models/base
models: {math: models/math, code: models/code}
merge: {method: sparse_signed, groups: {layers: 2, modules: [attention, mlp]}}
goals:
  - {metric: near, objective: {type: python, function: "score.py:near", items: 10}}
  - {metric: small, objective: {type: python, function: "score.py:small", items: 10}}
sampler: sobol
budget: {trials: 8}
study: runs/tiny.evomerge
export: {to: merged, shard_size: 40KB}
"""


def write_model(folder: Path, tensors: dict[str, torch.Tensor], config: LlamaConfig) -> None:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    for name, text in ByteTokenizer.new(bos_token="<s>").files().items():
        (folder / name).write_text(text)
    (folder / "LICENSE").write_text(f"licence of {folder.name}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# a model\n")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 base with tied embeddings and two parents of it, 4 blocks each."""
    folder = tmp_path_factory.mktemp("models")
    config = LlamaConfig(258, 32, 64, 4, 4, tie_word_embeddings=True, dtype="bfloat16")
    base = Llama(config)
    initialise(base, torch_generator(0, "base"))
    tensors = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in base.state_dict().items()
        if name != "lm_head.weight"
    }
    write_model(folder / "base", tensors, config)
    for name in ("math", "code"):
        changed = {
            key: (t.float() + 0.02 * torch.randn(t.shape, generator=torch_generator(0, name, key)))
            for key, t in tensors.items()
        }
        stored = {key: tensor.to(torch.bfloat16) for key, tensor in changed.items()}
        write_model(folder / name, stored, config)
    return folder


@pytest.fixture
def study(models: Path, tmp_path: Path) -> Study:
    """Eight told trials of a campaign over the models."""
    (tmp_path / "models").symlink_to(models, target_is_directory=True)
    (tmp_path / "score.py").write_text(
        "def near(model, items): ...\ndef small(model, items): ...\n"
    )
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    opened = Study.open(tmp_path / "campaign.yaml")
    for candidate in opened.ask(8):
        size = sum(v * v for n, v in candidate.parameters.items() if n.endswith("weight"))
        opened.tell(candidate, {"near": [1 / (1 + abs(size - 1))] * 6, "small": [-size] * 6})
    return opened
