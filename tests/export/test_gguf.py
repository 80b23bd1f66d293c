"""Adapters as GGUF files: read back, they change the base as the adapter does, whole or split."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from textwrap import dedent

import gguf
import numpy as np
import pytest
import torch
import yaml

from evomerge.checkpoint.gguf_names import LlamaNames
from evomerge.cli.app import run
from evomerge.errors import CheckpointError, EvomergeError, UsageError
from evomerge.export.gguf import AdapterFile, write_gguf
from tests.gguf_files import deltas

Adapt = Callable[..., Path]
Q, K, DOWN = (f"model.layers.{{}}.{part}" for part in
              ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"))  # fmt: skip
TARGETS = ["q_proj", "k_proj", "down_proj", "embed_tokens", "lm_head"]


EMBEDDINGS = {
    "model.embed_tokens.lora_embedding_A": torch.linspace(-1, 1, 2 * 258).reshape(2, 258),
    "model.embed_tokens.lora_embedding_B": torch.linspace(0, 2, 32 * 2).reshape(32, 2),
}


def factors(module: str, out: int, into: int, rank: int = 2) -> dict[str, torch.Tensor]:
    """Of one module, from its name."""
    generator = torch.Generator().manual_seed(len(module) + sum(map(ord, module)))
    return {
        f"{module}.lora_A.weight": torch.randn(rank, into, generator=generator),
        f"{module}.lora_B.weight": torch.randn(out, rank, generator=generator),
    }


def layers(*numbers: int) -> dict[str, torch.Tensor]:
    """Queries, keys and a linear layer of the tiny Llama: 32 wide, 4 heads, 64 in the middle."""
    found: dict[str, torch.Tensor] = {}
    for layer in numbers:
        found |= factors(Q.format(layer), 32, 32) | factors(K.format(layer), 32, 32)
        found |= factors(DOWN.format(layer), 32, 64)
    return found


def dense(tensors: dict[str, torch.Tensor], scale: Callable[[str], float]) -> dict[str, np.ndarray]:
    """What the adapter does to each tensor."""
    modules = [name.removesuffix(".lora_A.weight") for name in tensors if "lora_A" in name]
    return {
        f"{m}.weight": scale(m)
        * (tensors[f"{m}.lora_B.weight"] @ tensors[f"{m}.lora_A.weight"]).numpy()
        for m in modules
    }


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert set(found) == set(wanted)
    for name, change in wanted.items():
        np.testing.assert_allclose(found[name], change, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_file_is_what_llama_cpp_expects(models: Path, adapt: Adapt, tmp_path: Path) -> None:
    up = torch.arange(32.0)[:, None].repeat(1, 2)
    tensors = factors(DOWN.format(1), 32, 64) | {
        f"{Q.format(1)}.lora_A.weight": torch.ones(2, 32),
        f"{Q.format(1)}.lora_B.weight": up,
    }
    source = adapt(tensors, target_modules=TARGETS)
    written = write_gguf(models / "base", {"math": source}, tmp_path / "out", split=None)
    assert written == [AdapterFile("math", "math.gguf", None, 2)]
    read = gguf.GGUFReader(tmp_path / "out" / "math.gguf")
    said = {key: field.contents() for key, field in read.fields.items() if "." in key}
    assert {k: v for k, v in said.items() if not k.startswith("GGUF.")} == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 4.0,
    }
    stored = {tensor.name: np.array(tensor.data) for tensor in read.tensors}
    assert {name: array.shape for name, array in stored.items()} == {
        "blk.1.ffn_down.weight.lora_a": (2, 64),
        "blk.1.ffn_down.weight.lora_b": (32, 2),
        "blk.1.attn_q.weight.lora_a": (2, 32),
        "blk.1.attn_q.weight.lora_b": (32, 2),
    }
    # A head has 8 rows; entry i and entry i + 4 turn together and become neighbours.
    assert stored["blk.1.attn_q.weight.lora_b"][:10, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12]


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, lambda module: 2.0),
        ({"use_rslora": True}, lambda module: 4 / math.sqrt(2)),
        ({"lora_alpha": 0, "alpha_pattern": {"q_proj": 3}}, lambda m: 1.5 if "q_proj" in m else 0),
        ({"alpha_pattern": {"1.mlp.down_proj": 5}}, lambda m: 2.5 if "1.mlp" in m else 2.0),
    ],
)
def test_the_change_is_the_adapters_whatever_its_scale(
    settings: dict[str, object],
    scale: Callable[[str], float],
    models: Path,
    adapt: Adapt,
    tmp_path: Path,
) -> None:
    tensors = layers(0, 1)
    source = adapt(tensors, target_modules=TARGETS, **settings)
    write_gguf(models / "base", {"math": source}, tmp_path / "out", split=None)
    assert_same(deltas(tmp_path / "out" / "math.gguf", models / "base"), dense(tensors, scale))


def test_embeddings_stand_the_other_way_round(models: Path, adapt: Adapt, tmp_path: Path) -> None:
    base = copytree(models / "base", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    source = adapt(EMBEDDINGS, target_modules=TARGETS)
    write_gguf(base, {"math": source}, tmp_path / "out", split=None)
    found = deltas(tmp_path / "out" / "math.gguf", base)
    down, up = EMBEDDINGS.values()
    assert_same(found, {"model.embed_tokens.weight": 2.0 * (up @ down).T.numpy()})
    with pytest.raises(UsageError, match="embed_tokens', outside the layers"):
        write_gguf(base, {"math": source}, tmp_path / "cut", split=2)


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ("each", {"m-0": (0, 0), "m-1": (1, 1), "m-2": (2, 2), "m-3": (3, 3)}),
        (3, {"m-0-0": (0, 0), "m-1-1": (1, 1), "m-2-3": (2, 3)}),
        (1, {"m-0-3": (0, 3)}),
    ],
)
def test_files_of_bands_sum_up_to_the_adapter(
    split: int | str, wanted: dict[str, object], models: Path, adapt: Adapt, tmp_path: Path
) -> None:
    """The adapter leaves layer 1 alone: a file of its own is empty, which the server takes."""
    tensors = layers(0, 2, 3)
    source = adapt(tensors, target_modules=TARGETS)
    out = tmp_path / "out"
    written = write_gguf(models / "base", {"m": source}, out, split=split)  # type: ignore[arg-type]
    assert {file.name.removesuffix(".gguf"): file.layers for file in written} == wanted
    assert sum(file.modules for file in written) == 9
    found: dict[str, np.ndarray] = {}
    for file in written:
        for name, change in deltas(out / file.name, models / "base").items():
            found[name] = found.get(name, 0.0) + change
    assert_same(found, dense(tensors, lambda module: 2.0))


@pytest.mark.parametrize(
    ("tensors", "split", "message"),
    [
        ({"model.norm.weight": torch.ones(32)}, None, r"model\.norm\.weight\' cannot be said"),
        (factors("lm_head", 258, 32), None, r"lm_head\.weight\' cannot be said"),
        (EMBEDDINGS, None, r"embed_tokens\.weight\' cannot be said.*that are the head as well"),
        (factors("visual.q_proj", 4, 4), None, r"visual\.q_proj\.weight\' cannot be said"),
        (layers(0), 5, "5 bands are asked of 4 layers"),
        (factors(Q.format(0), 30, 32), None, "30 rows, which 4 heads cannot share"),
        (layers(0) | {f"{Q.format(0)}.lora_B.weight": torch.full((32, 2), math.nan)}, None,
         "NaN or infinite entries in model.layers.0.self_attn.q_proj"),
    ],
)  # fmt: skip
def test_what_gguf_cannot_say_is_refused(
    tensors: dict[str, torch.Tensor],
    split: int | None,
    message: str,
    models: Path,
    adapt: Adapt,
    tmp_path: Path,
) -> None:
    source = adapt(tensors, target_modules=TARGETS)
    with pytest.raises(EvomergeError, match=message):
        write_gguf(models / "base", {"m": source}, tmp_path / "out", split=split)
    assert not (tmp_path / "out").exists()


def test_other_bases_are_refused(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="is a whole model; an adapter is wanted"):
        write_gguf(models / "base", {"m": models / "math"}, tmp_path / "out", split=None)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["MambaForCausalLM"]}))
    with pytest.raises(UsageError, match="architecture is 'MambaForCausalLM'; Gemma2ForCausalLM,"):
        LlamaNames.of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"]}))
    with pytest.raises(CheckpointError, match="num_hidden_layers is 'None'"):
        LlamaNames.of(tmp_path)
    with monkeypatch.context() as old, pytest.raises(UsageError, match=r"gguf does not know llama"):
        old.setattr(gguf, "MODEL_ARCH_NAMES", {})
        LlamaNames.of(models / "base")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"the extra gguf.*\n.*pip install 'evomerge\[gguf\]'"):
        LlamaNames.of(models / "base")


@pytest.mark.parametrize(
    ("architecture", "module", "name"),
    [
        ("Qwen2ForCausalLM", "self_attn.k_proj", "attn_k"),
        ("Qwen3ForCausalLM", "self_attn.o_proj", "attn_output"),
        ("MistralForCausalLM", "mlp.gate_proj", "ffn_gate"),
        ("Gemma3ForCausalLM", "mlp.up_proj", "ffn_up"),
        ("Phi3ForCausalLM", "self_attn.qkv_proj", "attn_qkv"),
        ("Olmo2ForCausalLM", "self_attn.v_proj", "attn_v"),
    ],
)
def test_names_of_other_architectures(
    architecture: str, module: str, name: str, tmp_path: Path
) -> None:
    config = {"architectures": [architecture], "num_hidden_layers": 2, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    names = LlamaNames.of(tmp_path)
    assert names.tensor(f"model.layers.1.{module}") == f"blk.1.{name}.weight"
    # Only Llama's and Mistral's rotary embedding is of neighbours.
    assert bool(names.heads) == (architecture == "MistralForCausalLM")
    # Gemma's configs do not say that their embeddings are tied.
    assert names.tied == (architecture == "Gemma3ForCausalLM")


def test_the_command_says_how_the_files_are_used(
    models: Path, adapt: Adapt, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = adapt(layers(0, 1), target_modules=TARGETS), tmp_path / "out"
    words = ["gguf", str(models / "base"), f"math={source}", "-o", str(out), "--json"]
    assert run([*words, "--split", "2"]) == 0
    rows, said = capsys.readouterr()
    assert json.loads(rows) == [
        {"model": "math", "layers": "0-1", "modules": 6, "file": str(out / "math-0-1.gguf")},
        {"model": "math", "layers": "2-3", "modules": 0, "file": str(out / "math-2-3.gguf")},
    ]
    assert f"--lora {out / 'math-0-1.gguf'},{out / 'math-2-3.gguf'} -ctk f32" in said
    campaign = yaml.safe_load(dedent(said.partition("in the campaign:\n")[2]))
    assert campaign["models"] == {"math": str(source)}
    assert campaign["merge"]["groups"] == {"layers": 2}
    assert campaign["goals"][0]["objective"]["adapters"] == "{model}-{layers}.gguf"
    assert run([*words, "--split", "none"]) == 2
    assert "'none' is no number of bands" in capsys.readouterr().err
