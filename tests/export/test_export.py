"""An export is what was measured, loads anywhere, and appears whole or not at all."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import UsageError
from evomerge.export.front import export_front, export_trial
from evomerge.export.manifest import verify
from evomerge.export.merge import write_merge
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
from evomerge.objectives.models import load_model
from evomerge.study.study import Study

SAMPLED = 5


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        found |= load_file(shard)
    return found


def test_the_export_equals_the_live_model_bit_for_bit(study: Study, tmp_path: Path) -> None:
    target = export_trial(study, SAMPLED, tmp_path / "out")
    recipe = study.campaign.recipe
    candidate = study.trial(SAMPLED).candidate
    live = load_model(recipe.base, device="cpu")
    models = {name: Checkpoint.open(path) for name, path in recipe.models.items()}
    merge = LiveMerge(Merger(Checkpoint.open(recipe.base), models), live.module)
    merge.apply(study.recipe.plan(candidate.method, candidate.parameters))
    state = live.module.state_dict()
    exported = tensors_of(target)
    assert len(exported) > 20
    for name, tensor in exported.items():
        assert torch.equal(state[name].to(tensor.dtype), tensor), name


def test_transformers_loads_it_and_gives_the_same_logits(study: Study, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    target = export_trial(study, SAMPLED, tmp_path / "out")
    ids = torch.tensor([[72, 101, 108, 108, 111]])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    ours = load_model(target, device="cpu", dtype="float32")
    with torch.inference_mode():
        assert torch.allclose(theirs(ids).logits, ours.module(ids), atol=1e-5)
    assert tokenizer("Hello", add_special_tokens=False)["input_ids"] == ids[0].tolist()


def test_it_holds_all_that_belongs_beside_the_tensors(study: Study, tmp_path: Path) -> None:
    target = export_trial(study, SAMPLED, tmp_path / "out")
    base = study.campaign.recipe.base
    assert len(list(target.glob("model-*.safetensors"))) > 1  # 40 KB shards
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE"):
        assert (target / name).read_bytes() == (base / name).read_bytes()
    assert (target / "LICENSE.math").read_text() == "licence of math"
    card = (target / "README.md").read_text()
    assert "license: mit" in card and "base_model_relation: merge" in card
    assert str(tmp_path) not in card
    said = json.loads((target / "evomerge.json").read_text())
    assert said["trial"] == SAMPLED and said["scores"]["search"]["near"]["items"] == 6
    assert said["parameters"] == dict(study.trial(SAMPLED).candidate.parameters)
    assert str(tmp_path) not in json.dumps(said)
    assert verify(target) == []


def test_one_merge_reads_cold_files_past_the_cache_and_a_front_through_it(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A front is many merges of the same files."""
    directly: list[Path] = []

    def noted(path: Path, descriptor: int, buffer: memoryview, offset: int) -> int:
        directly.append(path)
        return 0

    monkeypatch.setattr("evomerge.checkpoint.shard.read_directly", noted)
    export_front(study, tmp_path / "front")
    assert not directly
    export_trial(study, SAMPLED, tmp_path / "out")
    assert directly


def test_the_front_is_listed_and_parents_are_not_copied(study: Study, tmp_path: Path) -> None:
    written = export_front(study, tmp_path / "out")
    listed = json.loads((tmp_path / "out" / "front.json").read_text())
    assert {row["trial"] for row in listed} == {trial.number for trial in study.front()}
    merges = [row for row in listed if not row["origin"].startswith(("base", "parent"))]
    assert [tmp_path / "out" / row["path"] for row in merges] == written
    with (tmp_path / "out" / "front.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["trial"]) for line in lines] == [row["trial"] for row in listed]
    assert float(lines[0]["near_search"]) == listed[0]["values"]["near"]["search"]["mean"]


def test_exporting_again_writes_nothing_and_a_damaged_export_is_refused(
    study: Study, tmp_path: Path
) -> None:
    target = export_trial(study, SAMPLED, tmp_path / "out")
    before = (target / "evomerge.json").stat().st_mtime_ns
    assert export_trial(study, SAMPLED, tmp_path / "out") == target
    assert (target / "evomerge.json").stat().st_mtime_ns == before
    (target / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="not this merge's whole export"):
        export_trial(study, SAMPLED, tmp_path / "out")


def test_the_base_is_exported_as_its_own_bytes(study: Study, tmp_path: Path) -> None:
    exported = tensors_of(export_trial(study, 0, tmp_path / "out"))
    base = tensors_of(study.campaign.recipe.base)
    assert exported.keys() == base.keys()
    assert all(torch.equal(exported[name], base[name]) for name in base)


def test_a_recipe_of_the_same_numbers_writes_the_same_tensors(study: Study, tmp_path: Path) -> None:
    recipe = tmp_path / "uniform.yaml"
    recipe.write_text(
        "base: models/base\nmodels: {math: models/math, code: models/code}\n"
        "merge: {method: sparse_signed, parameters: {weight: 0.5, density: 1.0}}\n"
    )
    merged = tensors_of(write_merge(recipe, tmp_path / "uniform"))
    uniform = tensors_of(export_trial(study, 3, tmp_path / "out"))
    assert study.trial(3).candidate.origin == "uniform"
    assert all(torch.equal(merged[name], uniform[name]) for name in uniform)


def test_another_dtype_is_rounded_once_from_the_same_sums(study: Study, tmp_path: Path) -> None:
    wide = tensors_of(export_trial(study, SAMPLED, tmp_path / "wide", dtype="F32"))
    narrow = tensors_of(export_trial(study, SAMPLED, tmp_path / "narrow"))
    for name, tensor in wide.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor.to(torch.bfloat16), narrow[name]), name
