"""The demo from the first byte to the closing table.

It makes models, items and a campaign file. Everything after that is what any user's campaign goes
through: `carry_out` is given the campaign and nothing else.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evomerge.checkpoint.files import staged_folder, write_file
from evomerge.demo import checkpoints, comparison, training
from evomerge.demo.campaign import TRIALS, campaign_text
from evomerge.demo.comparison import Comparison
from evomerge.demo.skills import SKILLS
from evomerge.demo.training import Tell
from evomerge.errors import UsageError
from evomerge.recipe.campaign import Campaign
from evomerge.report.page import page
from evomerge.report.summary import content_of
from evomerge.study.study import Study

CAMPAIGN = "campaign.yaml"
CHART = "front.html"
ITEMS = 400
"""Per skill; the campaign splits them 60 : 20 : 20."""

CarryOut = Callable[[Campaign], int]
"""Runs a campaign to its end and exports its front; returns the exit code, 0 if it got there."""


@dataclass(frozen=True)
class Demonstration:
    """What a demo leaves.

    Attributes:
        code: exit code of the campaign's run.
        comparison: None if the run did not get to its end.
        chart: the page with the front; None likewise.
    """

    campaign: Path
    code: int
    comparison: Comparison | None = None
    chart: Path | None = None


def demo(
    folder: Path,
    *,
    carry_out: CarryOut,
    tell: Tell,
    trials: int | None = None,
    workers: int = 2,
    seed: int = 0,
) -> Demonstration:
    """Train, search, export, compare; or go on with the demo that the folder holds.

    Args:
        folder: new or empty, or that of an earlier demo with the same seed.
        carry_out: what ``evomerge run`` does.
        tell: is given a line now and then.
        trials: of the campaign; the default is `TRIALS`. Of an earlier demo the file says it.
        workers: evaluations at once.

    Raises:
        UsageError: the folder holds something else, or a demo of another seed.
        EvomergeError: as any campaign.
    """
    campaign = prepare(folder, trials=trials or TRIALS, workers=workers, seed=seed, tell=tell)
    code = carry_out(campaign)
    if code != 0:
        return Demonstration(campaign.path, code)
    with Study.read(campaign.path) as study:
        chart = folder / CHART
        write_file(chart, page(content_of(study)).encode())
        return Demonstration(campaign.path, code, comparison.compare(study), chart)


def prepare(folder: Path, *, trials: int, workers: int, seed: int, tell: Tell) -> Campaign:
    """Models, items and campaign file, all or none; nothing to do where they are.

    Raises:
        UsageError: the folder holds something else, or a demo of another seed.
    """
    file = folder / CAMPAIGN
    if not file.is_file():
        with staged_folder(folder) as staged:
            _write_items(staged / "items", seed)
            _write_models(staged / "models", seed, tell)
            text = campaign_text(
                SKILLS, file=shlex.quote(str(file)), trials=trials, workers=workers, seed=seed
            )
            (staged / CAMPAIGN).write_text(text, "utf-8")
    campaign = Campaign.load(file)
    if campaign.seed != seed:
        raise UsageError(
            f"the folder holds a demo of seed {campaign.seed}, not {seed}",
            place=str(folder),
            kept="it is as it was",
            command=f"evomerge demo {shlex.quote(f'{folder}-{seed}')} --seed {seed}",
        )
    return campaign


def _write_items(folder: Path, seed: int) -> None:
    folder.mkdir()
    for skill in SKILLS:
        lines = [item.to_json() for item in skill.items(seed, ITEMS)]
        (folder / f"{skill.name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def _write_models(folder: Path, seed: int, tell: Tell) -> None:
    folder.mkdir()
    tell("training a base model of four layers on sums and comments")
    base = training.train_base(seed, lambda line: tell(f"base: {line}"))
    tell(f"training {len(SKILLS)} specialists from it: {', '.join(s.name for s in SKILLS)}")
    specialists = training.train_specialists(base, seed, tell)
    meanings = {skill.name: f"A specialist in {skill.meaning}." for skill in SKILLS}
    for name, model in {"base": base, **specialists}.items():
        checkpoints.write_model(
            model,
            training.TOKENIZER,
            folder / name,
            name=name,
            meaning=meanings.get(name, "The base of the demo's specialists."),
        )
