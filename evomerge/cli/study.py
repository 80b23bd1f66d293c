"""``evomerge status`` and ``evomerge front``: what a study holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evomerge.cli.arguments import study_argument
from evomerge.cli.output import emit, emit_one, escape, json_option, say
from evomerge.errors import InfeasibleError

if TYPE_CHECKING:
    from evomerge.study.study import Study


@click.command()
@study_argument
@json_option
def status(*, study: Path, as_json: bool) -> None:
    """Show trials by state, front, hypervolume, spend and estimated time left."""
    from evomerge.report.summary import doubts, failures, status_of
    from evomerge.study.control import compare
    from evomerge.study.study import Study

    with Study.read(study) as opened:
        row = status_of(opened)
        compared = compare(opened)
        reasons, warnings = failures(opened), doubts(opened)
    if as_json:
        beside = {} if compared is None else {"control": compared.to_json()}
        emit_one({**row, **beside, "failures": reasons, "warnings": warnings}, as_json=True)
        return
    emit_one(row, as_json=False)
    if compared is not None:
        say(str(compared))
    for reason, count in reasons.items():
        say(f"{count} trials: {escape(reason)}")
    for warning in warnings:
        say(f"warning: {escape(warning)}")


@click.command()
@study_argument
@click.option("--all", "all_splits", is_flag=True, help="Also what chose the set.")
@click.option("--predicted", is_flag=True, help="Also what the surrogate says of the set.")
@json_option
def front(*, study: Path, all_splits: bool, predicted: bool, as_json: bool) -> None:
    """Show the Pareto set, with standard errors and held-out values.

    The search items chose among all trials and the selection items among those; the test items
    chose nothing, so their values are the ones to quote, and the table's once they are measured.
    `--predicted` fits the surrogate to all trials, the set's among them; it shows mean ± std.
    """
    from evomerge.report.summary import front_rows
    from evomerge.study.study import Study

    with Study.read(study) as opened:
        rows = front_rows(opened)
        if predicted and rows:
            from evomerge.study.foresight import foresee, with_predictions

            foresight = foresee(opened)
            rows = with_predictions(foresight, rows)
            for metric, share in foresight.explained.items():
                say(f"{metric}: the surrogate explains {share:.0%} on trials left out")
        say_outcome(opened)
        nothing_meets_the_limits = bool(rows) and not any(row["feasible"] for row in rows)
    emit(rows if as_json else flat(rows, all_splits=all_splits), as_json=as_json)
    if not rows:
        say(f"no trial has ended yet; next: evomerge run {study}")
    if nothing_meets_the_limits:
        raise InfeasibleError("no trial meets the limits; shown are those that miss them least")


def say_outcome(study: Study) -> None:
    """What racing spared, and search against control, where there is either."""
    from evomerge.report.summary import economy, share_of_items
    from evomerge.study.control import compare

    saved = economy(study, study.trials())
    if saved:
        say(f"trials stopped early: {saved['stopped']}; items spent: {share_of_items(saved)}")
    compared = compare(study)
    if compared is not None:
        say(str(compared))


def flat(rows: Sequence[dict[str, Any]], *, all_splits: bool = False) -> list[dict[str, Any]]:
    """Front rows as a table shows them: one cell for each goal, of the last measured split."""
    from evomerge.trial import SPLITS

    measured = {split for row in rows for by_split in row["values"].values() for split in by_split}
    shown = [split for split in SPLITS if split in measured]
    if not all_splits:
        shown = shown[-1:]
    return [
        {
            "trial": row["trial"],
            "proposed by": row["origin"],
            **{
                f"{metric} ({split})": interval(by_split[split]) if split in by_split else None
                for metric, by_split in row["values"].items()
                for split in shown
            },
            **{
                f"{metric} (predicted)": forecast(row["predicted"], metric)
                for metric in (row["values"] if "predicted" in row else ())
            },
        }
        for row in rows
    ]


def forecast(predicted: dict[str, dict[str, float]] | None, metric: str) -> str | None:
    """``mean ± std``."""
    if predicted is None:
        return None
    return f"{predicted[metric]['mean']:.4g} ± {predicted[metric]['std']:.2g}"


def interval(value: dict[str, Any]) -> str:
    """``mean ± standard error``."""
    error = value["standard_error"]
    return f"{value['mean']:.4g}" + (f" ± {error:.2g}" if error is not None else "")
