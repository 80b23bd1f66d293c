"""The file that `evomerge init` writes is a campaign that fits the models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import CheckpointError, UsageError
from evomerge.recipe.campaign import Campaign
from evomerge.recipe.template import campaign_text

from .conftest import Make, tensors


def test_the_text_is_a_campaign_of_these_models(make: Make, tmp_path: Path) -> None:
    base, math, code = make("models/base"), make("models/math"), make("other/code")
    file = tmp_path / "campaign.yaml"
    file.write_text(campaign_text(base, [math, code], file=file))
    campaign = Campaign.load(file)
    assert campaign.recipe.base == base
    assert campaign.recipe.models == {"math": math, "code": code}
    assert "base: models/base\n" in file.read_text()
    assert campaign.study == tmp_path / "runs/campaign.evomerge"
    with Checkpoint.open(base) as opened:
        bound = campaign.recipe.bind(opened.tensors)
    assert list(bound.groups) == ["0.attention", "0.mlp", "1.attention", "1.mlp"]
    # 2 models x 4 groups x 2 fields, said in the file; 4 references and 5 trials for each.
    assert len(bound.space) == 16
    assert "# for 16 parameters" in file.read_text()
    assert campaign.budget.trials == 90


def test_names_and_paths_of_any_kind(make: Make, tmp_path: Path) -> None:
    base = make("base")
    models = [make("a/it's 数学"), make("b/base"), make("c/true"), make("d/true"), make("e/数学")]
    file = tmp_path / "elsewhere" / "c.yaml"
    file.parent.mkdir()
    file.write_text(campaign_text(base, models, file=file), "utf-8")
    campaign = Campaign.load(file)
    assert campaign.recipe.base == base
    assert campaign.recipe.models == dict(
        zip(["it-s", "base-2", "true", "true-2", "model"], models, strict=True)
    )


@pytest.mark.parametrize(("layers", "bands"), [(0, "all"), (1, "all"), (3, 3), (9, 4)])
def test_bands_fit_the_layers(make: Make, tmp_path: Path, layers: int, bands: object) -> None:
    base = make("base", weights=tensors(layers) | {"scale": torch.ones(1)})
    text = campaign_text(base, [make("model")], file=tmp_path / "c.yaml")
    campaign = Campaign.parse(text, tmp_path / "c.yaml")
    assert campaign.recipe.grouping.layers == bands
    with Checkpoint.open(base) as opened:
        campaign.recipe.bind(opened.tensors)


def test_what_is_no_checkpoint_is_refused(make: Make, tmp_path: Path) -> None:
    base = make("base")
    with pytest.raises(CheckpointError, match="no such folder"):
        campaign_text(base, [tmp_path / "none"], file=tmp_path / "c.yaml")
    with pytest.raises(CheckpointError, match="no such folder"):
        campaign_text(tmp_path / "none", [base], file=tmp_path / "c.yaml")
    with pytest.raises(UsageError, match="at least one"):
        campaign_text(base, [], file=tmp_path / "c.yaml")
