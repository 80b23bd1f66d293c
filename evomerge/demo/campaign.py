"""Writes the demo's campaign file: the ordinary one, as a user would write it."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.demo.checkpoints import SHARD_SIZE
from evomerge.demo.skills import Skill

TRIALS = 80

_TEXT = """\
# The demo's campaign. It is an ordinary campaign file: change it, and run it again with
#   evomerge run {file}
# Paths start at this file's folder. A larger budget goes on where the study stands; whatever
# decides results (models, groups, ranges, goals, items, seed) makes it another study.

base: models/base
models:
{models}

merge:
  method: sparse_signed     # base + the sum of weight x (the largest entries of a task vector)
  groups:
    layers: 2               # two bands of the model's four layers ...
    modules: [attention, mlp]    # ... each with numbers of their own for either kind
  density: [0.05, 1.0]      # fraction of a task vector's entries kept
  weight: [-0.5, 1.5]       # signed: a negative weight subtracts the model's skill

# Items are multiple choice: four continuations, and the likeliest is the model's answer.
goals:
{goals}

items: {{search: 60%, selection: 20%, test: 20%, seed: {seed}}}    # steer, choose, report
sampler: auto
budget: {{trials: {trials}}}       # the base, the three specialists and their average included
study: demo.evomerge      # database, logs, cache
export: {{to: merged, which: front, shard_size: {shard_size}}}    # small, to have several shards
seed: {seed}
workers: {workers}
"""


def campaign_text(
    skills: Sequence[Skill], *, file: str, trials: int, workers: int, seed: int
) -> str:
    """The file's text; models lie in ``models/NAME``, items in ``items/NAME.jsonl``.

    Args:
        file: the campaign file as the user would type it.
    """
    width = max(len(skill.name) for skill in skills)
    return _TEXT.format(
        file=file,
        models="\n".join(
            f"  {skill.name + ':':<{width + 1}} models/{skill.name:<{width}}    # {skill.meaning}"
            for skill in skills
        ),
        goals="\n".join(_goal(skill.name) for skill in skills),
        trials=trials,
        workers=workers,
        seed=seed,
        shard_size=SHARD_SIZE,
    )


def _goal(name: str) -> str:
    measure = f"type: jsonl, items: items/{name}.jsonl, delimiter: '', batch_size: 32"
    return f"  - metric: {name}\n    objective: {{{measure}}}\n    direction: maximize"
