"""A campaign file in full, and what its values become."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.errors import CampaignError, UsageError
from evomerge.goals import Goal
from evomerge.recipe.campaign import Campaign
from evomerge.recipe.pins import Pin
from evomerge.recipe.specs import (
    Budget,
    ExportSpec,
    ItemSplits,
    ObjectiveSpec,
    SamplerSpec,
    measures_parents,
)

FULL = """\
base: models/base
models:
  math: models/math
  code: {path: models/code, weight: {range: [0, 1], shared: true}, density: {tie: math}}
  chat: {path: models/chat, weight: {fixed: 0.3}}
merge:
  method: sparse_signed
  groups: {layers: 4, modules: [attention, mlp], embeddings: own, norms: base, head: average}
  density: [0.1, 1.0]
  split_signs: false
warm_start: [{weight: 0.5}, {weight: {math: 0.3, code: 1, chat: 0}, density: 1}]
goals:
  - {metric: gsm8k, objective: {type: python, function: f.py:gsm8k}}
  - metric: refusals
    objective: {type: jsonl, items: data/refusals.jsonl, batch_size: 8}
    direction: minimize
    limit: 0.05
    reference: 1
items: {search: 50%, selection: 0.25, test: 25%, seed: 3}
sampler: {name: cma, sigma: 0.2}
parents: unmeasured
budget: {trials: 200, hours: 1.5}
study: runs/demo.evomerge
engine: local
export: {to: merged, which: front, dtype: bfloat16, shard_size: 5GB}
seed: 7
workers: 2
lookahead: 0
timeout: 10m
isolate: true
loader: loaders.py:load
dtype: fp32
mirror: $MIRROR
"""

SMALL = """\
base: base
models: {math: math}
goals: [{metric: accuracy, objective: {type: python, function: f.py:f}}]
budget: {trials: 10}
"""


def test_every_key_of_the_file_has_its_value() -> None:
    campaign = Campaign.parse(FULL, "/here/demo.yaml")
    here = Path("/here")
    assert campaign.path == here / "demo.yaml"
    assert campaign.folder == here
    assert campaign.recipe.base == here / "models/base"
    assert campaign.recipe.models == {
        "math": here / "models/math",
        "code": here / "models/code",
        "chat": here / "models/chat",
    }
    assert campaign.recipe.method == "sparse_signed"
    assert campaign.goals == (
        Goal("gsm8k", "maximize"),
        Goal("refusals", "minimize", limit=0.05, reference=1.0),
    )
    assert campaign.objectives == {
        "gsm8k": ObjectiveSpec("python", {"function": "f.py:gsm8k"}),
        "refusals": ObjectiveSpec("jsonl", {"items": "data/refusals.jsonl", "batch_size": 8}),
    }
    assert campaign.items == ItemSplits(0.5, 0.25, 0.25, seed=3)
    assert campaign.sampler == SamplerSpec("cma", {"sigma": 0.2})
    assert (campaign.parents, campaign.measures_parents) == ("unmeasured", False)
    assert campaign.budget == Budget(trials=200, hours=1.5)
    assert campaign.study == here / "runs/demo.evomerge"
    assert campaign.name == "demo"
    assert campaign.export == ExportSpec(here / "merged", "front", "BF16", 5_000_000_000)
    assert (campaign.seed, campaign.workers, campaign.lookahead) == (7, 2, 0)
    assert (campaign.timeout, campaign.isolate, campaign.engine) == (600.0, True, "local")
    assert (campaign.loader, campaign.dtype) == ("loaders.py:load", "F32")
    assert campaign.source_text == FULL


def test_pins_take_what_they_leave_open_from_the_merge_section() -> None:
    pins = Campaign.parse(FULL, "demo.yaml").recipe.pins
    assert pins == {
        "math/weight": Pin(),
        "code/weight": Pin(range=(0.0, 1.0), shared=True),
        "chat/weight": Pin(fixed=0.3),
        "math/density": Pin(range=(0.1, 1.0)),
        "code/density": Pin(tie="math"),
        "chat/density": Pin(range=(0.1, 1.0)),
    }


def test_a_pin_of_all_models_is_a_number_a_range_or_a_mapping() -> None:
    text = SMALL + "merge: {weight: {shared: true}, density: 0.5}"
    assert Campaign.parse(text, "c.yaml").recipe.pins == {
        "math/weight": Pin(shared=True),
        "math/density": Pin(fixed=0.5),
    }


def test_a_small_file_gets_the_defaults() -> None:
    campaign = Campaign.parse(SMALL, "/here/c.yaml")
    assert campaign.items == ItemSplits(0.6, 0.2, 0.2, seed=0)
    assert campaign.sampler == SamplerSpec("auto")
    assert campaign.study == Path("/here/runs/c.evomerge")
    assert (campaign.export, campaign.workers, campaign.timeout) == (None, None, None)
    assert (campaign.parents, campaign.measures_parents) == ("auto", True)
    assert (campaign.seed, campaign.lookahead, campaign.isolate) == (0, 4, False)
    assert campaign.recipe.grouping.layers == "all"


def test_paths_start_at_the_file_and_know_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mit Leerzeichen ü λ"
    folder.mkdir()
    file = folder / "kampagne é.yaml"
    text = SMALL.replace("base: base", "base: ../a b/basis ß")
    file.write_text(text.replace("math: math", "math: ~/models/数学, code: /abs/code"), "utf-8")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir(tmp_path)
    campaign = Campaign.load(file.relative_to(tmp_path))
    assert campaign.path == file
    assert campaign.recipe.base == folder / "../a b/basis ß"
    assert campaign.recipe.models == {
        "math": Path("/home/someone/models/数学"),
        "code": Path("/abs/code"),
    }
    assert campaign.study == folder / "runs/kampagne é.evomerge"


@pytest.mark.parametrize(
    ("models", "trials", "measured"),
    [
        (8, 9, True),
        (9, 35, False),
        (9, 36, True),  # a quarter of the budget
        (100, 399, False),
        (100, None, True),
    ],
)
def test_many_models_are_measured_by_themselves_where_most_of_the_budget_is_left(
    models: int, trials: int | None, measured: bool
) -> None:
    assert measures_parents(models, trials) is measured


@pytest.mark.parametrize(
    ("more", "measured"),
    [("", False), ("parents: measured", True), ("sampler: greedy_soup", True)],
)
def test_models_are_measured_where_the_file_or_its_sampler_wants_them(
    more: str, measured: bool
) -> None:
    models = ", ".join(f"m{i}: math" for i in range(9))
    text = SMALL.replace("math: math", models) + more
    assert Campaign.parse(text, "c.yaml").measures_parents is measured


def identity(text: str) -> str:
    return json.dumps(
        Campaign.parse(text, "/here/c.yaml").identity(), sort_keys=True, allow_nan=False
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trials: 200", "trials: 300"),
        ("hours: 1.5", "hours: 9"),
        ("workers: 2", "workers: 8"),
        ("timeout: 10m", "timeout: 5"),
        ("isolate: true", "isolate: false"),
        ("runs/demo", "elsewhere/demo"),
        ("to: merged", "to: other"),
        ("$MIRROR", "sqlite:///m.db"),
        ("math: models/math", "math: /moved/math"),
        ("split_signs: false", "weight: [-0.5, 1.5]"),  # the method's own range, written out
        ("direction: minimize", "direction: minimize # a comment"),
    ],
)
def test_safe_edits_leave_the_identity(old: str, new: str) -> None:
    assert old in FULL
    assert identity(FULL.replace(old, new)) == identity(FULL)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fixed: 0.3", "fixed: 0.4"),
        ("density: [0.1", "density: [0.2"),
        ("layers: 4", "layers: 2"),
        ("direction: minimize", "direction: maximize"),
        ("limit: 0.05", "limit: 0.1"),
        ("batch_size: 8", "batch_size: 9"),
        ("search: 50%, selection: 0.25", "search: 25%, selection: 0.5"),
        ("seed: 3", "seed: 4"),
        ("seed: 7", "seed: 8"),
        ("name: cma", "name: tpe"),
        ("lookahead: 0", "lookahead: 1"),
        ("dtype: fp32", "dtype: bf16"),
        ("[{weight: 0.5}", "[{weight: 0.6}"),
    ],
)
def test_edits_that_change_results_change_the_identity(old: str, new: str) -> None:
    assert old in FULL
    assert identity(FULL.replace(old, new)) != identity(FULL)


def test_the_order_of_models_is_part_of_the_identity() -> None:
    one = SMALL.replace("{math: math}", "{math: math, code: code}")
    assert identity(one) != identity(SMALL.replace("{math: math}", "{code: code, math: math}"))


def test_the_mirror_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = Campaign.parse(FULL, "c.yaml")
    monkeypatch.delenv("MIRROR", raising=False)
    with pytest.raises(UsageError, match="MIRROR is not set"):
        campaign.mirror_url()
    monkeypatch.setenv("MIRROR", "postgresql://u:p@h/db")
    assert campaign.mirror_url() == "postgresql://u:p@h/db"
    assert Campaign.parse(SMALL, "c.yaml").mirror_url() is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("1.5", 1.5), ("90s", 90.0), ("10m", 600.0), ("2 h", 7200.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert Campaign.parse(SMALL + f"timeout: {text}", "c.yaml").timeout == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("500MB", 500_000_000), ("4GiB", 4 << 30), ("1.5 kb", 1500)]
)
def test_sizes(text: str, size: int) -> None:
    campaign = Campaign.parse(SMALL + f"export: {{to: x, shard_size: {text}}}", "c.yaml")
    assert campaign.export is not None
    assert campaign.export.shard_size == size


@pytest.mark.parametrize(
    ("items", "sizes"),
    [
        (10, (6, 2, 2)),
        (100, (60, 20, 20)),
        (7, (4, 2, 1)),  # 4.2, 1.4, 1.4: the earlier part gets the seventh
        (3, (1, 1, 1)),
        (4, (2, 1, 1)),  # 2.4, 0.8, 0.8
    ],
)
def test_shares_hold_all_items_and_no_part_is_empty(
    items: int, sizes: tuple[int, int, int]
) -> None:
    assert tuple(ItemSplits().sizes(items).values()) == sizes


def test_a_part_may_be_left_out() -> None:
    assert ItemSplits(1.0, 0.0, 0.0).sizes(5) == {"search": 5, "selection": 0, "test": 0}
    assert ItemSplits(0.7, 0.0, 0.3).sizes(10) == {"search": 7, "selection": 0, "test": 3}


def test_counts_leave_the_rest_unused() -> None:
    text = SMALL + "items: {search: 20, selection: 5, test: 5}"
    items = Campaign.parse(text, "c.yaml").items
    assert items.sizes(100) == {"search": 20, "selection": 5, "test": 5}
    with pytest.raises(UsageError, match="30 items are asked for; there are 29"):
        items.sizes(29)


def test_too_few_items_for_the_parts() -> None:
    with pytest.raises(UsageError, match="2 items cannot be split into 3 parts"):
        ItemSplits().sizes(2)


def test_reading_a_campaign_loads_no_heavy_library(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(FULL)
    code = (
        "import sys\nfrom evomerge.recipe.campaign import Campaign\nCampaign.load(sys.argv[1])\n"
        "heavy = {'torch', 'optuna', 'nevergrad', 'scipy', 'pydantic', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "c.yaml")], check=True)


def test_a_missing_campaign_file_is_a_campaign_error(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="no such file"):
        Campaign.load(tmp_path / "none.yaml")
