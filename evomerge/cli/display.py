"""The live display of a run: a redrawn panel on a terminal, else one line per evaluation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from evomerge.cli.output import escape, say
from evomerge.cli.progress import Progress, clock_text
from evomerge.study.events import AttemptEnded, Event, PhaseBegan, Stopping
from evomerge.trial import Outcome, Split, Trial, TrialState

if TYPE_CHECKING:
    from rich.console import RenderableType

FRONT_ROWS = 12
REDRAWS_PER_SECOND = 4


class Watcher(Protocol):
    """Takes the loop's events, one by one."""

    def __call__(self, event: Event) -> None: ...


@contextmanager
def watching(progress: Progress) -> Iterator[Watcher]:
    """A watcher that shows the run until the block ends."""
    if sys.stdout.isatty() and sys.stderr.isatty():
        with _panel(progress) as watcher:
            yield watcher
    else:
        yield _lines(progress)


def _lines(progress: Progress) -> Watcher:
    def watch(event: Event) -> None:
        progress.update(event)
        text = line(progress, event)
        if text:
            say(text)

    return watch


def line(progress: Progress, event: Event) -> str | None:
    """What a log shows of an event; None for what is not worth a line."""
    match event:
        case PhaseBegan(phase="confirmation"):
            what = f"{event.attempts} trials" if event.attempts is not None else "the front"
            return f"confirming {what} on the selection and test items"
        case Stopping():
            return f"stopping: {event.why}; {event.running} evaluations still run"
        case AttemptEnded():
            return _ended(progress, event)
    return None


def _ended(progress: Progress, event: AttemptEnded) -> str:
    head = f"[{clock_text(progress.seconds)}] trial {event.trial.number}"
    if event.outcome is not Outcome.SUCCEEDED:
        return f"{head} {event.outcome}: {escape(event.reason or '')}"
    values = _means(progress, event.trial, event.splits[0])
    said = "  ".join(f"{metric} {mean:.3f}" for metric, mean in values)
    if event.phase == "confirmation":
        return f"{head} {event.trial.candidate.origin}, {event.splits[0]} items: {said}"
    if event.trial.state is TrialState.PENDING:
        return f"{head} {event.trial.candidate.origin}: races on"
    if event.trial.chance is not None:
        said += f", stopped at a chance of {event.trial.chance:.1%}"
    return f"{head} {event.trial.candidate.origin}: {said}  ({facts(progress)})"


def _means(progress: Progress, trial: Trial, split: Split) -> list[tuple[str, float]]:
    """Means in the order of the goals."""
    values = trial.values(split) or {}
    return [(g.metric, values[g.metric]) for g in progress.goals if g.metric in values]


def facts(progress: Progress) -> str:
    """Trials, front, hypervolume, time: the line that says how far the run is."""
    ended = progress.done + progress.failed
    of = f"/{progress.limit}" if progress.limit is not None else ""
    failed = f", {progress.failed} failed" if progress.failed else ""
    volume = "–" if progress.hypervolume is None else f"{progress.hypervolume:.4g}"
    return (
        f"{ended}{of} trials{failed}, front {len(progress.front)}, hypervolume {volume}, "
        f"{clock_text(progress.seconds)} spent, {clock_text(progress.seconds_left)} left"
        f"{_paid(progress)}"
    )


def _paid(progress: Progress) -> str:
    """What endpoints have cost; nothing where there are none."""
    spent = progress.spent
    if spent is None:
        return ""
    money = f", money {spent.money:.4g}" if spent.money else ""
    return f"; {spent.requests:,} requests, {spent.tokens:,} tokens{money}"


@contextmanager
def _panel(progress: Progress) -> Iterator[Watcher]:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False)
    with Live(
        get_renderable=lambda: _drawn(progress),
        console=console,
        refresh_per_second=REDRAWS_PER_SECOND,
    ):

        def watch(event: Event) -> None:
            progress.update(event)
            if isinstance(event, AttemptEnded) and event.outcome is not Outcome.SUCCEEDED:
                console.print(_ended(progress, event), style="yellow", markup=False)

        yield watch


def _drawn(progress: Progress) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    ended, total = progress.done + progress.failed, progress.limit
    if progress.phase == "confirmation":
        ended, total = progress.confirmed, progress.to_confirm
    bar = ProgressBar(total=total, completed=min(ended, total) if total else 0, width=48)
    running = ", ".join(str(number) for number in progress.running.values()) or "–"
    state = progress.stopping and f"stopping: {progress.stopping}"
    return Group(
        Text(facts(progress)),
        bar,
        Text(f"{state or progress.phase}, {progress.workers} workers, running: {running}", "dim"),
        _front_table(progress),
    )


def _front_table(progress: Progress) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("trial", justify="right")
    table.add_column("proposed by")
    for goal in progress.goals:
        table.add_column(Text(goal.metric), justify="right")
    for trial in progress.front[-FRONT_ROWS:]:
        values = _means(progress, trial, "search")
        cells = [str(trial.number), trial.candidate.origin, *(f"{mean:.3f}" for _, mean in values)]
        table.add_row(*[Text(escape(cell)) for cell in cells])
    if len(progress.front) > FRONT_ROWS:
        table.caption = f"the last {FRONT_ROWS} of {len(progress.front)} on the front"
    return table
