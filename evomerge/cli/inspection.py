"""``evomerge inspect``: a look at task vectors before anything is merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evomerge.cli.arguments import PATH
from evomerge.cli.output import Row, emit, emit_one, json_option
from evomerge.merging.plan import VOCABULARIES, Vocabulary

TITLES = {
    "models": "task vectors",
    "sparsity": "what sparsity costs",
    "kinship": "kinship",
    "layers": "layers",
}


@click.command()
@click.argument("base", type=PATH)
@click.argument("models", type=PATH, nargs=-1, required=True)
@click.option(
    "--vocabulary",
    type=click.Choice(VOCABULARIES),
    default="refuse",
    show_default=True,
    help="Whose rows count where vocabularies differ.",
)
@json_option
def inspect(*, base: Path, models: tuple[Path, ...], vocabulary: Vocabulary, as_json: bool) -> None:
    """Measure what fine-tuning did to the models, and how alike they are.

    Norms of the task vectors, whole and by layer; the share of entries unchanged and of those with
    one magnitude; what is left of them at some densities, and the size of a ComPEFT file; kinship
    (cosine, Pearson, Euclidean) and conflicts of sign. JSON has kinship by layer too.
    """
    from evomerge.checkpoint.hub import located
    from evomerge.recipe.template import model_names
    from evomerge.report.inspection import inspection

    paths = {name: located(path) for name, path in model_names(models).items()}
    tables: dict[str, Any] = inspection(located(base), paths, vocabulary=vocabulary)
    if as_json:
        emit_one(tables, as_json=True)
        return
    for name, rows in tables.items():
        emit([_flat(row) for row in rows], as_json=False, title=TITLES[name])


def _flat(row: Row) -> Row:
    """A row without its nested kinship, and with a column for each model's norm."""
    cells = {key: value for key, value in row.items() if key not in ("norms", "kinship")}
    return cells | {f"norm of {name}": norm for name, norm in row.get("norms", {}).items()}
