"""A merge of adapters written as one adapter: what PEFT loads is what the full export is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoint.adapter import Adapter
from evomerge.errors import UsageError
from evomerge.export.adapter import described
from evomerge.export.front import export_trial
from evomerge.export.lineage import AdapterForm
from evomerge.export.manifest import read_manifest, verify
from evomerge.export.merge import write_merge
from evomerge.study.study import Study

RECIPE = """
base: models/base
models: {{math: adapters/math, code: adapters/code}}
merge: {{method: {method}, parameters: {{weight: {{math: 0.7, code: -0.4}}, {more}}}}}
dtype: float32
"""
CAMPAIGN = """
base: models/base
models: {math: adapters/math, code: adapters/code}
merge: {method: task_arithmetic}
goals: [{metric: near, objective: {type: python, function: "score.py:near", items: 10}}]
sampler: sobol
budget: {trials: 6}
study: runs/tiny.evomerge
export: {to: merged, form: lora, rank: 3}
"""


def write_adapter(folder: Path, seed: int, rank: int, targets: dict[str, tuple[int, int]]) -> None:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    names = sorted({name.rpartition(".")[2] for name in targets})
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 3, "target_modules": names}
    settings |= {"task_type": "CAUSAL_LM", "use_rslora": True}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    factors = {}
    for name, (rows, columns) in targets.items():
        stem = f"base_model.model.{name}"
        factors[f"{stem}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) * 0.3
        factors[f"{stem}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) * 0.3
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "LICENSE").write_text(f"licence of {folder.name}")


@pytest.fixture
def place(models: Path, tmp_path: Path) -> Path:
    """Two adapters of different ranks to different layers of the base."""
    (tmp_path / "models").symlink_to(models, target_is_directory=True)
    q = {f"model.layers.{i}.self_attn.q_proj": (32, 32) for i in range(4)}
    up = {"model.layers.1.mlp.up_proj": (64, 32)}
    write_adapter(tmp_path / "adapters" / "math", 0, 2, q)
    write_adapter(tmp_path / "adapters" / "code", 1, 3, {**up, **q})
    (tmp_path / "score.py").write_text("def near(model, items): ...\n")
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    return tmp_path


def recipe(place: Path, method: str = "task_arithmetic", more: str = "scaling: 1.0") -> Path:
    path = place / f"{method}.yaml"
    path.write_text(RECIPE.format(method=method, more=more))
    return path


def test_the_adapter_is_plain_whatever_its_parents_are(place: Path) -> None:
    out = write_merge(recipe(place), place / "out", adapter=AdapterForm(None))
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (5, 5, False)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["task_type"] == "CAUSAL_LM"
    assert "model.layers.1.mlp.up_proj" in config["target_modules"]  # one of several up_proj
    with Adapter.open(out) as adapter:
        shapes = {
            name: adapter.stored.entry(change.low_rank.down).shape
            for name, change in adapter.changes.items()
            if change.low_rank
        }
    assert shapes["model.layers.1.mlp.up_proj.weight"] == (5, 32)  # filled up with zeros
    assert len(shapes) == 5
    assert verify(out) == []
    assert read_manifest(out)["adapter"] == {"rank": 5, "relative_error": 0.0}
    assert described(out).endswith("an adapter of rank 5, exact")
    card = (out / "README.md").read_text()
    assert "base_model_relation: adapter" in card
    assert "library_name: peft" in card
    assert (out / "LICENSE.math").read_text() == "licence of math"


@pytest.mark.filterwarnings("ignore")
def test_peft_computes_the_logits_of_the_full_export(place: Path) -> None:
    peft: Any = pytest.importorskip("peft")
    transformers: Any = pytest.importorskip("transformers")
    load = transformers.AutoModelForCausalLM.from_pretrained
    ids = torch.tensor([[72, 101, 108, 108, 111]])
    exact = write_merge(recipe(place), place / "exact", adapter=AdapterForm(None))
    full = write_merge(recipe(place), place / "full")
    base = load(place / "models" / "base", dtype=torch.float32)
    with torch.inference_mode():
        plain = base(ids).logits
        expected = load(full, dtype=torch.float32)(ids).logits
        found = peft.PeftModel.from_pretrained(base, exact)(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (plain - expected).abs().max() > 0.01


def test_a_merge_that_is_no_sum_needs_a_rank_and_says_what_is_lost(place: Path) -> None:
    file = recipe(place, "ties", "density: 0.5, scaling: 1.0")
    with pytest.raises(UsageError, match=r"give the rank.*--rank 16"):
        write_merge(file, place / "none", adapter=AdapterForm(None))
    assert not (place / "none").exists()
    low = read_manifest(write_merge(file, place / "low", adapter=AdapterForm(2)))["adapter"]
    high = read_manifest(write_merge(file, place / "high", adapter=AdapterForm(16)))["adapter"]
    assert (low["rank"], high["rank"]) == (2, 16)
    assert 0 < high["relative_error"] < low["relative_error"] < 1
    full = load_file(write_merge(file, place / "full") / "model.safetensors")
    base = load_file(place / "models" / "base" / "model.safetensors")
    factors = load_file(place / "high" / "adapter_model.safetensors")
    lost = whole = 0.0
    for name in (n for n in full if f"base_model.model.{n[:-7]}.lora_A.weight" in factors):
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        change = full[name] - base[name].float()
        made = factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"]
        lost += float((change - made).square().sum())
        whole += float(change.square().sum())
    assert high["relative_error"] == pytest.approx((lost / whole) ** 0.5, rel=1e-3)
    assert f"relative error {high['relative_error']:.3g}" in described(place / "high")


def test_a_campaign_can_ask_for_adapters(place: Path) -> None:
    with Study.open(place / "campaign.yaml") as study:
        for candidate in study.ask(6):
            study.tell(candidate, {"near": [candidate.number / 10] * 6})
        folder = export_trial(study, 5, place / "merged")
        assert export_trial(study, 5, place / "merged") == folder
        manifest = read_manifest(folder)
        assert manifest["form"] == ["lora", 3]
        assert manifest["adapter"]["rank"] == 3
        assert manifest["dtype"] is None
        with pytest.raises(UsageError, match="not this merge's whole export"):
            export_trial(study, 5, place / "merged", adapter=AdapterForm(2))
        stored = load_file(folder / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
