"""How rows reach stdout: as a table, or as JSON for scripts. Messages go to stderr."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

Row = Mapping[str, Any]
F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """``--json`` for a listing command; it arrives as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Rows as JSON, for scripts.")(
        command
    )


def say(message: str) -> None:
    """One message to the user, on stderr."""
    click.echo(message, err=True)


def emit(rows: Sequence[Row], *, as_json: bool, title: str | None = None) -> None:
    """Rows to stdout.

    Args:
        rows: mappings with the same keys; numbers stay numbers in JSON, NaN becomes null.
        as_json: a JSON array instead of a table, with ``_`` for the spaces of the keys.
        title: above the table only.
    """
    if as_json:
        click.echo(json.dumps([_record(row) for row in rows], indent=2))
    elif rows:
        _table(rows, title)


def emit_one(row: Row, *, as_json: bool) -> None:
    """One record to stdout: a JSON object, or ``key  value`` lines."""
    if as_json:
        click.echo(json.dumps(_record(row), indent=2))
        return
    width = max(len(key) for key in row)
    for key, value in row.items():
        click.echo(f"{key:<{width}}  {cell(value)}")


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {cell(inner)}" for key, inner in value.items()) or "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(inner) for inner in value) or "–"
    return escape(str(value))


def escape(text: str) -> str:
    """Text from outside without control characters, so that no name drives the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _table(rows: Sequence[Row], title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for key, value in rows[0].items():
        numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
        table.add_column(Text(key), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell(value)) for value in row.values()])
    console = Console(highlight=False, soft_wrap=False)
    # A pipe has no width of its own: rows stay whole there.
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)
        table.expand = False
    console.print(table)


def _record(row: Row) -> dict[str, Any]:
    return {str(key).replace(" ", "_"): _plain(value) for key, value in row.items()}


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
