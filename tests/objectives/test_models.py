"""Which model is loaded by whom, and what is refused."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.errors import CheckpointError, EvomergeError, UsageError
from evomerge.objectives.builtin import BuiltinLanguageModel
from evomerge.objectives.hf import TransformersLanguageModel
from evomerge.objectives.llama import Llama
from evomerge.objectives.models import load_model

os.environ["HF_HUB_OFFLINE"] = "1"
MakeFolder = Callable[..., Path]

LOADER = """
import torch
class Twice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
    def forward(self, x): return self.scale * x
def twice(folder): return Twice()
def three(folder): return 3
def causal(folder):
    import transformers
    return transformers.AutoModelForCausalLM.from_pretrained(folder)
"""


def test_a_plain_llama_needs_no_transformers(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    live = load_model(make_folder(), device="cpu")
    assert isinstance(live.module, Llama) and isinstance(live.language, BuiltinLanguageModel)
    assert not live.module.training and not any(p.requires_grad for p in live.module.parameters())
    assert live.language.ends == {257} and live.language.start == 256


def biased(config: dict[str, Any]) -> None:
    config["mlp_bias"] = True


def scaled(config: dict[str, Any]) -> None:
    config["rope_scaling"] = {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize("edit", [scaled, biased])
def test_anything_else_goes_to_transformers(
    make_folder: MakeFolder, edit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_biases(tensors: dict[str, torch.Tensor]) -> None:
        if edit is biased:
            for name in [name for name in tensors if ".mlp." in name]:
                bias = torch.ones(len(tensors[name]))
                tensors[name.replace("weight", "bias")] = bias

    folder = make_folder(edit=edit, tensors=with_biases)
    before = torch.get_rng_state()
    live = load_model(folder, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(live.language, TransformersLanguageModel)
    assert live.language.ends == {257} and live.language.context == 128
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match="extra hf") as caught:
        load_model(folder, device="cpu")
    assert caught.value.command == "pip install 'evomerge[hf]'"


def test_both_ways_give_the_same_logits(make_folder: MakeFolder, tmp_path: Path) -> None:
    (tmp_path / "load.py").write_text(LOADER)
    folder, ids = make_folder(), torch.arange(24).view(2, 12)
    ours = load_model(folder, device="cpu").language
    theirs = load_model(folder, device="cpu", loader="load.py:causal", root=tmp_path).language
    assert isinstance(theirs, TransformersLanguageModel) and ours is not None
    with torch.inference_mode():
        assert torch.allclose(ours.logits(ids, keep=5), theirs.logits(ids, keep=5), atol=1e-5)
        a, b = ours.reader(rows=2, length=12), theirs.reader(rows=2, length=12)
        for piece in ids.split((7, 1, 4), dim=1):
            assert torch.allclose(a.read(piece), b.read(piece), atol=1e-5)
    for text in ("", "a b", "é</s>"):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(ours.encode(text))
    for name in ("vocabulary", "context", "ends", "start"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_a_loader_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "load.py").write_text(LOADER)
    live = load_model(tmp_path, loader="load.py:twice", root=tmp_path, device="cpu")
    assert live.module(3) == 6 and live.language is None and live.tokenizer is None
    half = load_model(tmp_path, loader="load.py:twice", root=tmp_path, dtype="bf16", device="cpu")
    assert next(half.module.parameters()).dtype == torch.bfloat16
    with pytest.raises(UsageError, match=r"returned a int; a torch\.nn\.Module"):
        load_model(tmp_path, loader="load.py:three", root=tmp_path)
    with pytest.raises(UsageError, match="did you mean 'twice'"):
        load_model(tmp_path, loader="load.py:twise", root=tmp_path)
    with pytest.raises(UsageError, match="a function is wanted"):
        load_model(tmp_path, loader="load.py:torch", root=tmp_path)


@pytest.mark.parametrize(
    ("stored", "asked", "loaded"),
    [
        ("float32", None, torch.float32),
        ("bfloat16", None, torch.bfloat16),
        ("bfloat16", "float32", torch.float32),
        ("float64", None, torch.float64),
        ("float32", "fp16", torch.float16),
    ],
)
def test_dtypes(make_folder: MakeFolder, stored: str, asked: Any, loaded: torch.dtype) -> None:
    live = load_model(make_folder(dtype=stored), dtype=asked, device="cpu")
    assert {parameter.dtype for parameter in live.module.parameters()} == {loaded}


@pytest.mark.parametrize("other", [torch.float16, torch.float32])
def test_mixed_dtypes_lose_nothing(make_folder: MakeFolder, other: torch.dtype) -> None:
    def mix(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(other)

    live = load_model(make_folder(dtype="bfloat16", tensors=mix), device="cpu")
    assert {parameter.dtype for parameter in live.module.parameters()} == {torch.float32}


def test_a_head_beside_a_tied_embedding_stays_its_own(make_folder: MakeFolder) -> None:
    import transformers

    def with_head(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = -tensors["model.embed_tokens.weight"]

    folder, ids = make_folder(tie_word_embeddings=True, tensors=with_head), torch.arange(9)[None]
    ours = load_model(folder, device="cpu").module
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert torch.allclose(ours(ids), theirs(ids).logits, atol=1e-5)


def drop(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[name]

    return edit


def add(name: str, *shape: int) -> Callable[[dict[str, torch.Tensor]], None]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = torch.zeros(*shape)

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (drop("model.norm.weight"), "'model.norm.weight' missing"),
        (drop("lm_head.weight"), "'lm_head.weight' missing"),
        (add("extra", 3), "'extra' not a Llama's"),
        (add("model.norm.weight", 3), "of another shape"),
        (add("model.layers.0.self_attn.rotary_emb.inv_freq", 4), None),
    ],
)
def test_tensors_that_do_not_fit(make_folder: MakeFolder, edit: Any, words: str | None) -> None:
    folder = make_folder(tensors=edit)
    if words is None:  # a buffer that older versions of transformers saved
        assert load_model(folder, device="cpu").language is not None
        return
    with pytest.raises(CheckpointError, match=words):
        load_model(folder, device="cpu")


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(CheckpointError, match="258"):
        load_model(make_folder(vocab_size=257), device="cpu")


def test_a_folder_without_a_config(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="loader"):
        load_model(folder, device="cpu")
    with pytest.raises(EvomergeError):
        load_model(tmp_path / "nowhere", device="cpu")


def test_what_transformers_cannot_load_is_said(make_folder: MakeFolder) -> None:
    folder = make_folder(edit=lambda config: config.update(model_type="no_such_type"))
    with pytest.raises(CheckpointError, match="transformers cannot load it"):
        load_model(folder, device="cpu")


def test_ends_are_gathered_from_all_files(make_folder: MakeFolder) -> None:
    folder = make_folder(eos_token_id=(258, 7))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 9}))
    language = load_model(folder, device="cpu").language
    assert language is not None and language.ends == {7, 9, 257, 258}
