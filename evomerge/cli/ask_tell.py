"""``evomerge ask`` and ``evomerge tell``: the loop by hand, or from any script."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from evomerge.cli.arguments import study_argument
from evomerge.cli.output import emit, json_option, say
from evomerge.errors import UsageError


@click.command()
@study_argument
@click.option("-n", "count", type=click.IntRange(min=1), default=1, show_default=True)
@json_option
def ask(*, study: Path, count: int, as_json: bool) -> None:
    """Ask for candidates: each is a trial's number and its parameters.

    `evomerge export STUDY OUT --trial N` writes a candidate's checkpoint; `evomerge tell` takes
    what it scored. A campaign file that has no study yet gets one.
    """
    from evomerge.cli.preparing import prepare
    from evomerge.recipe.campaign import Campaign
    from evomerge.study.study import Study

    campaign = study if study.is_dir() else Campaign.load(study)
    if isinstance(campaign, Campaign):
        prepare(campaign)
    with Study.open(campaign) as opened:
        rows = [
            {
                "trial": candidate.number,
                "origin": candidate.origin,
                "method": candidate.method,
                "parameters": dict(candidate.parameters),
            }
            for candidate in opened.ask(count)
        ]
        used, limit = opened.spend().trials, opened.limit
    emit(rows, as_json=as_json)
    if limit is not None and used > limit:
        say(f"{used} trials are asked; the budget of the campaign file is {limit}")


@click.command()
@study_argument
@click.argument("trial", type=click.IntRange(min=0))
@click.argument("values", nargs=-1, required=True)
@click.option("--seconds", type=float, default=0.0, help="What the evaluation took.")
def tell(*, study: Path, trial: int, values: tuple[str, ...], seconds: float) -> None:
    """Tell what a trial scored. Telling the same again changes nothing.

    VALUES is `metric=number` for each goal; or one JSON object, `-` for standard input:
    {"metric": number}, {"metric": [score of each item]} or
    {"metric": {"items": [...], "margins": [...]}}.
    """
    from evomerge.study.study import Study

    scores = parse_values(values)
    Study.read(study).close()  # telling makes no study
    with Study.open(study) as opened:
        told = opened.tell(trial, scores, seconds=seconds)
    means = ", ".join(f"{metric} {mean:.4g}" for metric, mean in (told.values() or {}).items())
    say(f"trial {trial} is {told.state}: {means}")


def parse_values(words: tuple[str, ...]) -> dict[str, Any]:
    """Scores by metric from the command line.

    Raises:
        UsageError: on anything that is neither JSON nor ``metric=number``.
    """
    if len(words) == 1 and (words[0] == "-" or words[0].lstrip().startswith("{")):
        text = sys.stdin.read() if words[0] == "-" else words[0]
        try:
            content = json.loads(text)
        except ValueError as error:
            raise UsageError(f"VALUES is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise UsageError("VALUES is no JSON object: {metric: scores} is wanted")
        return content
    return dict(parse_pairs(words))


def parse_pairs(words: tuple[str, ...], *, name: str = "VALUES") -> dict[str, float]:
    """Numbers by metric from ``metric=number`` words.

    Args:
        name: of the argument, for errors.

    Raises:
        UsageError: on anything else, or a metric that comes twice.
    """
    pairs = [_pair(word.strip(), name) for word in words]
    twice = [
        metric for metric, count in Counter(metric for metric, _ in pairs).items() if count > 1
    ]
    if twice:
        raise UsageError(f"{name} has {twice[0]!r} more than once")
    return dict(pairs)


def _pair(word: str, name: str) -> tuple[str, float]:
    metric, equals, text = word.partition("=")
    try:
        if equals:
            return metric, float(text)
    except ValueError:
        pass
    wanted = "`metric=number`" + (" or one JSON object" if name == "VALUES" else "")
    raise UsageError(f"{name} has {word!r}; {wanted} is wanted")
