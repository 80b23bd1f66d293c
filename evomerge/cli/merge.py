"""``evomerge export`` and ``evomerge merge``: checkpoints on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evomerge.cli.arguments import PATH, adapter_options, checkpoint_options, study_argument
from evomerge.cli.output import say
from evomerge.errors import UsageError

if TYPE_CHECKING:
    from evomerge.export.lineage import AdapterForm

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@click.command()
@study_argument
@click.argument("out", type=PATH)
@click.option("--trial", type=click.IntRange(min=0), help="One trial instead of the Pareto set.")
@click.option(
    "--prefer",
    "preferences",
    metavar="METRIC=WEIGHT,...",
    help="The merge that the surrogate finds best for these weights, measured first.",
)
@checkpoint_options
@adapter_options
def export(
    *,
    study: Path,
    out: Path,
    trial: int | None,
    preferences: str | None,
    dtype: str | None,
    shard_size: str | None,
    lora: bool,
    rank: int | None,
) -> None:
    """Write the Pareto set, or one trial, as checkpoints that load anywhere.

    OUT receives a folder for each trial, and front.json and front.csv with the set. What is
    there already, and whole, is not written again.

    `--prefer math=2,code=1` searches no more: the surrogate of all trials proposes one merge for
    these weights, which becomes a trial, is measured on all items and written. A weight is of a
    goal's distance between the worst and the best of the references. Later asks do not see it.
    """
    from evomerge.export.adapter import described
    from evomerge.export.front import export as written_by
    from evomerge.study.study import Study

    size = None if shard_size is None else parse_bytes(shard_size)
    form = _form(lora, rank)
    if preferences is not None:
        if trial is not None:
            raise UsageError("--prefer makes a trial of its own; it cannot go with --trial")
        if out.exists() and not out.is_dir():
            raise UsageError("this is a file; a folder is wanted", place=str(out))
        from evomerge.cli.preferring import prefer

        trial = prefer(study, preferences)
    with Study.read(study) as opened:
        written = written_by(opened, out, trial=trial, dtype=dtype, shard_size=size, adapter=form)
    for folder in written:
        say(f"wrote {described(folder)}")


@click.command()
@click.argument("recipe", type=PATH)
@click.argument("out", type=PATH)
@checkpoint_options
@adapter_options
def merge(
    *,
    recipe: Path,
    out: Path,
    dtype: str | None,
    shard_size: str | None,
    lora: bool,
    rank: int | None,
) -> None:
    """Write one merge, without a search.

    RECIPE is a YAML file with `base`, `models` and `merge`, whose `parameters` are the numbers, or
    a file of mergekit. OUT is the new checkpoint's folder; it must not exist.
    """
    from evomerge.export.adapter import described
    from evomerge.export.merge import write_merge

    size = None if shard_size is None else parse_bytes(shard_size)
    write_merge(recipe, out, dtype=dtype, shard_size=size, adapter=_form(lora, rank), note=say)
    say(f"wrote {described(out)}")


def _form(lora: bool, rank: int | None) -> AdapterForm | None:
    from evomerge.export.lineage import AdapterForm

    if rank is not None and not lora:
        raise UsageError("--rank is of an adapter; it needs --lora")
    return AdapterForm(rank) if lora else None


def parse_bytes(text: str) -> int:
    """A size such as ``5GB``, in bytes.

    Raises:
        UsageError: if it is no positive number with a unit.
    """
    word = text.strip().upper()
    for unit, factor in UNITS.items():
        number = word.removesuffix(unit).strip()
        if word.endswith(unit) and number.replace(".", "", 1).isdigit() and float(number) > 0:
            return int(float(number) * factor)
    raise UsageError(f"--shard-size is {text!r}; a size such as 5GB or 500MB is wanted")
