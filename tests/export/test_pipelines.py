"""Inputs that are no folder of one language model: pipelines, their components, bare files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import CheckpointError
from evomerge.export.manifest import verify
from evomerge.export.merge import write_merge

UNET = ("conv_in.weight", "down_blocks.0.attentions.0.to_q.weight")
TEXT = ("text_model.encoder.layers.0.mlp.fc1.weight",)
RECIPE = """
base: base
models: {art: art}
merge:
  method: sparse_signed
  groups: {regex: {unet: '^unet/'}}
  parameters: {art/unet/weight: 0.5, art/all/weight: 0}
"""


def pipeline(folder: Path, number: float, dtype: torch.dtype = torch.float32) -> None:
    """A U-Net in two shards and one file of it for fp16, a text encoder, a scheduler."""
    for part in ("unet", "text_encoder", "scheduler"):
        (folder / part).mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion"}))
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    (folder / "unet" / "config.json").write_text(json.dumps({"sample_size": 8}))
    index = {}
    for i, name in enumerate(UNET):
        shard = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file({name: torch.full((2, 3), number, dtype=dtype)}, folder / "unet" / shard)
        index[name] = shard
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": index})
    )
    tensors = {name: torch.full((3,), number, dtype=dtype) for name in TEXT}
    save_file(tensors, folder / "text_encoder" / "model.safetensors")


def merged(home: Path, recipe: str, **options: int) -> Path:
    (home / "recipe.yaml").write_text(recipe)
    return write_merge(home / "recipe.yaml", home / "out", **options)


def test_a_pipeline_is_merged_by_component_and_stays_one(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", 1.0)
    pipeline(tmp_path / "art", 3.0, torch.bfloat16)
    out = merged(tmp_path, RECIPE)
    unet = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert set(unet) == set(UNET)
    assert all(bool((tensor == 2).all()) for tensor in unet.values())
    text = out / "text_encoder" / "model.safetensors"
    assert bool((load_file(text)[TEXT[0]] == 1).all())
    files = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert files == {
        "README.md",
        "evomerge.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/model.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert "library_name: diffusers" in (out / "README.md").read_text()
    assert verify(out) == []
    with Checkpoint.open(out) as again:
        assert set(again.tensors) == {*(f"unet/{n}" for n in UNET), f"text_encoder/{TEXT[0]}"}


def test_each_component_has_shards_and_an_index_of_its_own(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", 1.0)
    pipeline(tmp_path / "art", 3.0)
    out = merged(tmp_path, RECIPE, shard_size=24)
    index = out / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    shards = json.loads(index.read_text())["weight_map"]
    assert set(shards) == set(UNET)
    assert all((out / "unet" / shard).is_file() for shard in shards.values())
    assert not (out / "text_encoder" / "model.safetensors.index.json").exists()


def test_one_component_alone_keeps_the_name_of_its_file(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", 1.0)
    pipeline(tmp_path / "art", 3.0)
    text = "base: base/unet\nmodels: {art: art/unet}\nmerge: {method: linear}"
    out = merged(tmp_path, text)
    assert (out / "diffusion_pytorch_model.safetensors").is_file()
    assert (out / "config.json").is_file()


def test_bare_files_of_several_dtypes_merge_into_the_base_s(tmp_path: Path) -> None:
    """(1 + 2 + 6) / 3 of float16, bfloat16 and float32."""
    for name, number, dtype in (
        ("a", 1.0, torch.float16),
        ("b", 2.0, torch.bfloat16),
        ("c", 6.0, torch.float32),
    ):
        save_file({"t": torch.full((4,), number, dtype=dtype)}, tmp_path / f"{name}.safetensors")
    models = "{a: a.safetensors, b: b.safetensors, c: c.safetensors}"
    out = merged(tmp_path, f"base: a.safetensors\nmodels: {models}\nmerge: {{method: linear}}")
    found = load_file(out / "model.safetensors")["t"]
    assert found.dtype == torch.float16
    assert bool((found == 3).all())


def test_a_component_that_only_a_pickle_holds_is_refused(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", 1.0)
    (tmp_path / "base" / "vae").mkdir()
    (tmp_path / "base" / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="can run code when read"):
        Checkpoint.open(tmp_path / "base")


def test_a_component_that_a_model_lacks_is_named(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", 1.0)
    pipeline(tmp_path / "art", 3.0)
    (tmp_path / "art" / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks 'text_encoder/text_model"):
        merged(tmp_path, RECIPE)
    assert not (tmp_path / "out").exists()
