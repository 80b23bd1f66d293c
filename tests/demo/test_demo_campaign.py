"""The demo's campaign file is one that any user could have written."""

from __future__ import annotations

from pathlib import Path

from evomerge.demo import run
from evomerge.demo.campaign import campaign_text
from evomerge.demo.checkpoints import SHARD_SIZE
from evomerge.demo.skills import SKILLS
from evomerge.recipe.campaign import Campaign


def test_the_file_says_what_the_demo_does(tmp_path: Path) -> None:
    text = campaign_text(SKILLS, file="demo/campaign.yaml", trials=60, workers=3, seed=7)
    assert "evomerge run demo/campaign.yaml" in text
    assert str(tmp_path) not in text
    (tmp_path / run.CAMPAIGN).write_text(text)
    campaign = Campaign.load(tmp_path / run.CAMPAIGN)
    assert list(campaign.recipe.models) == [skill.name for skill in SKILLS]
    assert [goal.metric for goal in campaign.goals] == [skill.name for skill in SKILLS]
    assert (campaign.budget.trials, campaign.workers, campaign.seed) == (60, 3, 7)
    assert campaign.study == tmp_path / "demo.evomerge"
    assert campaign.export is not None
    assert campaign.export.shard_size == SHARD_SIZE
    assert campaign.items.seed == 7
