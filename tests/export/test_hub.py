"""Models named by their ids on the hub, out of a cache as huggingface_hub lays it out on disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoint.hub import HubId, hub_id, located, origin
from evomerge.errors import CampaignError, CheckpointError
from evomerge.export.merge import write_merge
from evomerge.recipe.template import campaign_text

pytest.importorskip("huggingface_hub", reason="the extra hf is not installed")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")


def put(cache: Path, repository: str, number: float, *, weights: bool = True) -> Path:
    """One model in the cache: blobs, a snapshot of links to them, the branch main."""
    holder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = holder / "snapshots" / COMMIT
    for folder in (holder / "blobs", holder / "refs", snapshot):
        folder.mkdir(parents=True)
    (holder / "refs" / "main").write_text(COMMIT)
    (holder / "blobs" / "c0").write_text(json.dumps({"model_type": "llama"}))
    (snapshot / "config.json").symlink_to("../../blobs/c0")
    if weights:
        tensors = {name: torch.full((2, 2), number) for name in NAMES}
        save_file(tensors, holder / "blobs" / "w0")
        (snapshot / "model.safetensors").symlink_to("../../blobs/w0")
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    put(folder, "org/base", 1.0)
    put(folder, "org/math", 3.0)
    return folder


def test_a_recipe_merges_models_of_the_hub_and_keeps_their_commits(
    cache: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"base: org/base@main\nmodels: {{math: org/math@{COMMIT}}}\n"
        "merge: {method: task_arithmetic, parameters: {weight: 1, scaling: 0.5}}\n"
    )
    folder = write_merge(recipe, tmp_path / "out")
    assert bool((load_file(folder / "model.safetensors")[NAMES[1]] == 2).all())
    manifest = json.loads((folder / "evomerge.json").read_text())
    assert (manifest["base"]["path"], manifest["base"]["commit"]) == ("org/base", COMMIT)
    assert manifest["models"]["math"]["commit"] == COMMIT
    assert "- org/math" in (folder / "README.md").read_text()


def test_a_mergekit_file_needs_no_revision(cache: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mergekit.yml"
    recipe.write_text(
        "merge_method: linear\nmodels:\n- {model: org/base, parameters: {weight: 1}}\n"
        "- {model: org/math@main, parameters: {weight: 3}}\n"
    )
    folder = write_merge(recipe, tmp_path / "out")
    assert bool((load_file(folder / "model.safetensors")[NAMES[0]] == 2.5).all())


def test_a_folder_of_that_name_comes_first(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "org" / "math").mkdir(parents=True)
    save_file({n: torch.full((2, 2), 7.0) for n in NAMES}, tmp_path / "org/math/a.safetensors")
    recipe = tmp_path / "mergekit.yml"
    recipe.write_text("merge_method: passthrough\nmodels: [{model: org/math}]")
    folder = write_merge(recipe, tmp_path / "out")
    assert bool((load_file(folder / "model.safetensors")[NAMES[0]] == 7).all())


def test_init_writes_the_ids_down(cache: Path, tmp_path: Path) -> None:
    models = [Path("org/math@main")]
    text = campaign_text(Path("org/base@main"), models, file=tmp_path / "campaign.yaml")
    assert "base: 'org/base@main'" in text
    assert "  math: 'org/math@main'" in text


def test_one_file_needs_no_weights(cache: Path) -> None:
    config = put(cache, "org/code", 0.0, weights=False)
    assert located(Path("org/code@main"), only="config.json") == config
    with pytest.raises(CheckpointError, match="org/code@main is not on this machine") as e:
        located(Path("org/code@main"), only="tokenizer.json")
    assert e.value.command == "hf download org/code tokenizer.json --revision main"


@pytest.mark.parametrize("cached", [False, True])
def test_what_is_not_whole_in_the_cache_and_cannot_be_fetched_is_said(
    cache: Path, tmp_path: Path, cached: bool
) -> None:
    if cached:
        put(cache, "org/code", 0.0, weights=False)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("base: org/base@main\nmodels: {code: org/code@main}\n")
    with pytest.raises(
        CampaignError, match=r"2:16: models.code.path: org/code@main is not on this"
    ) as e:
        write_merge(recipe, tmp_path / "out")
    assert e.value.command == "hf download org/code --revision main"


def test_without_the_extra_it_is_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"evomerge\[hf\]"):
        campaign_text(Path("org/base@main"), [Path("org/math@main")], file=tmp_path / "c.yaml")


def test_ids_are_told_from_paths(tmp_path: Path) -> None:
    assert hub_id("org/a.b-c@v1") == HubId("org/a.b-c", "v1")
    assert hub_id("org/name") is None
    assert hub_id("org/name", bare=True) == HubId("org/name", "main")
    paths = ("../m@x", "a/b/c@x", "/org/m@x", "name@x", "org/m@", "./org/m")
    assert not any(hub_id(path, bare=True) for path in paths)
    assert origin(tmp_path / "models--org--a--b" / "snapshots" / "f00") == HubId("org/a--b", "f00")
    assert origin(tmp_path) is None
