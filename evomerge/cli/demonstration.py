"""What ``evomerge demo`` shows: training, an ordinary campaign, and the closing table."""

from __future__ import annotations

import shlex
import time
from functools import partial
from pathlib import Path

from evomerge.cli.output import emit, say
from evomerge.cli.progress import clock_text
from evomerge.cli.running import carry_out
from evomerge.demo.campaign import TRIALS
from evomerge.demo.comparison import Comparison, summary, table
from evomerge.demo.run import demo


def demonstrate(folder: Path, *, trials: int | None, workers: int, seed: int) -> int:
    """Run the demo and close with its table.

    Returns:
        The exit code, as of ``evomerge run``.
    """
    started = time.monotonic()
    made = demo(
        folder,
        carry_out=partial(carry_out, trials=trials, workers=workers),
        tell=say,
        trials=trials,
        workers=workers,
        seed=seed,
    )
    if made.comparison is not None:
        _compare(made.comparison)
        say(f"chart: {made.chart}")
        say(f"checkpoints: {folder / 'merged'}")
        say(f"all in {clock_text(time.monotonic() - started)}; to go on:")
        say(f"evomerge run {shlex.quote(str(made.campaign))} --trials {2 * (trials or TRIALS)}")
    return made.code


def _compare(comparison: Comparison) -> None:
    emit(table(comparison), as_json=False, title="The Pareto set and what it has to beat")
    say("it is, goal by goal and in the mean: + better, = level, - worse (two standard errors)")
    for line in summary(comparison):
        say(line)
