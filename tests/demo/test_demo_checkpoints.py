"""The demo's checkpoints are ordinary: ours and transformers load them to the same logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.demo import training
from evomerge.demo.checkpoints import write_model
from evomerge.objectives.llama import Llama, initialise
from evomerge.objectives.models import load_model

TEXT = "27+15=42\nimport os\nReturn the name."


@pytest.fixture
def model() -> Llama:
    made = Llama(training.SHAPE)
    initialise(made, torch.Generator().manual_seed(0))
    return made


@pytest.fixture
def folder(model: Llama, tmp_path: Path) -> Path:
    target = tmp_path / "base"
    write_model(model, training.TOKENIZER, target, name="base", meaning="A test.")
    return target


def test_a_folder_has_all_that_hugging_face_folders_have(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) >= 2
    assert names == shards | {
        "model.safetensors.index.json",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
    }
    with Checkpoint.open(folder) as checkpoint:
        assert "lm_head.weight" not in checkpoint.tensors  # tied


def test_what_was_written_is_read_bit_for_bit(model: Llama, folder: Path) -> None:
    live = load_model(folder, device="cpu")
    for (name, a), (_, b) in zip(
        model.named_parameters(), live.module.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name


def test_transformers_loads_it_to_the_same_logits(model: Llama, folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([training.TOKENIZER.encode(TEXT)])
    assert tokenizer(TEXT)["input_ids"] == ids[0].tolist()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-5, rtol=1e-5)
