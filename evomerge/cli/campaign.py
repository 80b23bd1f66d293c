"""``evomerge init``, ``check`` and ``run``: a campaign from its file to its Pareto set."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from evomerge.cli.arguments import PATH, campaign_argument
from evomerge.cli.output import emit, emit_one, json_option, say
from evomerge.errors import UsageError


@click.command()
@click.argument("base")
@click.argument("models", nargs=-1)
@click.option("-o", "--output", type=PATH, default="campaign.yaml", show_default=True)
@click.option("--api-key-env", metavar="VARIABLE", help="With the key of a server.")
def init(*, base: str, models: tuple[str, ...], output: Path, api_key_env: str | None) -> None:
    """Look at a base and its models, and write a commented campaign file.

    Only headers and configs are read. The file that is written names every goal's objective as
    a place to fill in; `evomerge check` says what is left to do.

    BASE may be the URL of an `evomerge serve`; then MODELS are names of its pool, or nothing for
    all of it, and outlines of them are written beside the file.
    """
    from evomerge.checkpoint.files import write_file
    from evomerge.cli.outlines import fetch_outlines, is_url
    from evomerge.recipe.template import Server, campaign_text

    if output.exists():
        raise UsageError(
            "the file exists; it is not overwritten",
            place=str(output),
            command=f"evomerge init ... -o {shlex.quote(f'{output.stem}-2{output.suffix}')}",
        )
    if is_url(base):
        folder = output.parent / f"{output.stem}.outlines"
        paths = fetch_outlines(base, models, folder, key_env=api_key_env)
        text = campaign_text(*paths, file=output, server=Server(base, api_key_env))
    else:
        text = campaign_text(Path(base), [Path(model) for model in models], file=output)
    write_file(output, text.encode())
    say(f"wrote {output}; fill in the goals, then: evomerge check {output}")


@click.command()
@campaign_argument
@json_option
def check(*, campaign: Path, as_json: bool) -> int:
    """Look for what would go wrong, before anything is evaluated.

    Shapes, vocabularies, tokenizers, chat templates, dtypes, tied weights, NaN, licences, disk,
    memory and the budget. Exits with 0 if no finding is an error.
    """
    from evomerge.recipe.campaign import Campaign
    from evomerge.recipe.preflight import preflight
    from evomerge.study.forking import as_begun

    findings = preflight(as_begun(Campaign.load(campaign)))
    emit([finding.row() for finding in findings], as_json=as_json)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        say(f"{campaign}: {len(errors)} errors; nothing was evaluated")
        return max(finding.exit_code for finding in errors)
    say(f"{campaign}: ready; next: evomerge run {campaign}")
    return 0


@click.command()
@campaign_argument
@click.option("--workers", type=click.IntRange(min=1), help="Evaluations at once.")
@click.option("--trials", type=click.IntRange(min=1), help="Instead of the file's budget.")
@click.option("--engine", type=click.Choice(["local"]), help="What runs the workers.")
@click.option("--dry-run", is_flag=True, help="Print the plan; write and evaluate nothing.")
@click.option("--control", is_flag=True, help="Then a random search of as many trials, to compare.")
@click.option("--fork", is_flag=True, help="After an edit that changes results: a new study.")
@json_option
def run(
    *,
    campaign: Path,
    workers: int | None,
    trials: int | None,
    engine: str | None,
    dry_run: bool,
    control: bool,
    fork: bool,
    as_json: bool,
) -> int:
    """Start the campaign, or resume it where it stands.

    Ctrl-C once stops asking and finishes or hands back what runs; twice stops at once. Nothing
    that was told is ever lost, and the same command continues: also after a crash, a kill or a
    power cut. At the end the Pareto set is measured on the held-out items and exported.
    """
    from evomerge.cli.running import carry_out, plan_of
    from evomerge.recipe.campaign import Campaign

    del engine  # one engine so far; the option is the contract's
    loaded = Campaign.load(campaign)
    if dry_run:
        emit_one(plan_of(loaded, workers=workers, trials=trials), as_json=as_json)
        return 0
    return carry_out(
        loaded, workers=workers, trials=trials, control=control, fork=fork, as_json=as_json
    )
