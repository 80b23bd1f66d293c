"""``evomerge demo``: the five minutes."""

from __future__ import annotations

from pathlib import Path

import click

from evomerge.cli.arguments import PATH


@click.command()
@click.argument("folder", metavar="[DIR]", type=PATH, default="demo")
@click.option("--trials", type=click.IntRange(min=8), help="Trials of the campaign.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def demo(*, folder: Path, trials: int | None, workers: int, seed: int) -> int:
    """Train a small model and its specialists, then merge them by an ordinary campaign.

    Offline, on the CPU, in under three minutes on two cores. DIR (./demo by default) receives the
    models, the campaign file, the study, the exported checkpoints and a chart of the front. On a
    DIR that holds a demo, its campaign continues where it stands.
    """
    from evomerge.cli.demonstration import demonstrate

    return demonstrate(folder, trials=trials, workers=workers, seed=seed)
