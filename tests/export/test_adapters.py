"""Adapters from the campaign file to the exported checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.export.manifest import read_manifest, verify
from evomerge.export.merge import write_merge
from evomerge.recipe.campaign import Campaign
from evomerge.recipe.preflight import preflight
from evomerge.recipe.template import campaign_text
from evomerge.study.study import Study

MODULE = "model.layers.1.self_attn.q_proj"
RECIPE = """
base: models/base
models: {math: models/math, tuned: adapters/tuned}
merge: {method: task_arithmetic, parameters: {weight: {math: 0.0, tuned: 1.0}, scaling: 1.0}}
dtype: float32
"""
CAMPAIGN = """
base: models/base
models: {math: models/math, tuned: adapters/tuned}
goals: [{metric: near, objective: {type: python, function: "score.py:near", items: 10}}]
sampler: sobol
budget: {trials: 5}
study: runs/tiny.evomerge
"""


@pytest.fixture
def place(models: Path, tmp_path: Path) -> Path:
    """A folder with models, an adapter of one layer, a recipe and a campaign."""
    (tmp_path / "models").symlink_to(models, target_is_directory=True)
    adapter = tmp_path / "adapters" / "tuned"
    adapter.mkdir(parents=True)
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    (adapter / "README.md").write_text("---\nlicense: mit\n---\n")
    factors = {"A": torch.full((1, 32), 0.5), "B": torch.full((32, 1), 0.25)}
    save_file(
        {f"base_model.model.{MODULE}.lora_{n}.weight": t for n, t in factors.items()},
        adapter / "adapter_model.safetensors",
    )
    (tmp_path / "score.py").write_text("def near(model, items): ...\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    return tmp_path


def test_a_recipe_merges_an_adapter_and_tells_where_it_came_from(place: Path) -> None:
    out = write_merge(place / "recipe.yaml", place / "out")
    base = load_file(place / "models" / "base" / "model.safetensors")
    merged = load_file(out / "model.safetensors")
    name = f"{MODULE}.weight"
    assert torch.equal(merged[name], base[name].float() + 0.25)
    assert all(torch.equal(merged[n], t.float()) for n, t in base.items() if n != name)
    parent = read_manifest(out)["models"]["tuned"]
    assert set(parent["shards"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert parent["path"] == "adapters/tuned"
    assert verify(out) == []
    assert not (out / "mergekit_config.yml").exists()


def test_init_check_and_a_study_take_an_adapter_for_a_model(place: Path) -> None:
    campaign = Campaign.load(place / "campaign.yaml")
    assert [f.text for f in preflight(campaign) if f.severity == "error"] == []
    text = campaign_text(
        place / "models" / "base", [place / "adapters" / "tuned"], file=place / "new.yaml"
    )
    assert "tuned: adapters/tuned" in text
    with Study.open(place / "campaign.yaml") as study:
        roles = {(given.role, given.file) for given in study.inputs}
    assert ("models.tuned", "adapter_config.json") in roles
    assert ("models.tuned", "adapter_model.safetensors") in roles


def test_check_names_what_an_adapter_holds_wrong(place: Path) -> None:
    file = place / "adapters" / "tuned" / "adapter_model.safetensors"
    factors = load_file(file)
    up = f"base_model.model.{MODULE}.lora_B.weight"
    save_file({**factors, up: torch.full((32, 1), torch.nan)}, file)
    texts = [f.text for f in preflight(Campaign.load(place / "campaign.yaml"))]
    assert any("'tuned' has 32 NaN" in text and "lora_B" in text for text in texts)
    save_file({**factors, up: torch.ones(31, 1)}, file)
    texts = [f.text for f in preflight(Campaign.load(place / "campaign.yaml"))]
    assert any("adapter 'tuned' changes" in text and "[31, 32]" in text for text in texts)
