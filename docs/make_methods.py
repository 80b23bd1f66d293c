"""Writes docs/methods.md from what the methods declare: ``python docs/make_methods.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from evomerge.merging.lines import FIELDS, PAPER, PREFIX
from evomerge.merging.method import Field, MergeMethod
from evomerge.merging.registry import METHODS

HEAD = """# Merge methods

Every method of this version with its numbers, as the methods declare them; this page is made by
`python docs/make_methods.py`. Formulas are in [Merging](merging.md#methods).

*Searched* is the range where the campaign file gives none, *else* the value where nothing is said
and nothing is searched, as in a recipe file. Numbers outside *allowed* are refused.
"""


def render() -> str:
    """The page's text."""
    methods = [section(METHODS.load(name)) for name in METHODS.own]
    return "\n".join([HEAD, *methods, lines()])


def lines() -> str:
    """The prefix, which adds its numbers to those of the method that it is put before."""
    own = [field for field in FIELDS if field.searched]
    text = f"{PAPER}: any method above, scaled by depth. Beside that method's numbers:"
    return _written(f"{PREFIX}METHOD", text, own)


def section(method: MergeMethod) -> str:
    """One method: its source, and a row for each field."""
    return _written(method.name, f"{method.paper}.", method.fields)


def _written(title: str, text: str, fields: Sequence[Field]) -> str:
    rows = [
        "| number | per | searched | else | allowed | what it is |",
        "|---|---|---|---|---|---|",
        *(row(field) for field in fields),
    ]
    return f"## {title}\n\n{text}\n\n" + "\n".join(rows) + "\n"


def row(field: Field) -> str:
    """One field as a row of the table."""
    scale = ", log" if field.scale == "log" else ""
    searched = f"{field.low:g} to {field.high:g}{scale}"
    meaning = f"{field.meaning} ({field.source})"
    owner = "merge" if field.shared else field.per
    cells = (f"`{field.name}`", owner, searched, f"{field.default:g}", allowed(field), meaning)
    return f"| {' | '.join(cells)} |"


def allowed(field: Field) -> str:
    """The limits in words; a density of 0 would keep nothing."""
    low, high = field.limits
    if field.role == "density":
        return f"above 0, to {high:g}"
    if math.isinf(low) and math.isinf(high):
        return "any"
    return f"from {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


if __name__ == "__main__":
    (Path(__file__).parent / "methods.md").write_text(render(), encoding="utf-8")
