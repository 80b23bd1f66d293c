"""One self-contained HTML page of a study: the front in every pair of goals, and as a table.

No script, no font, no address: the page opens from a file, on a machine without a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations

from evomerge.goals import Goal
from evomerge.report.chart import Mark, scatter, step_line
from evomerge.study.references import model_of
from evomerge.trial import Measured, Split, Trial

REFERENCES = {"base": "base", "uniform": "uniform"}
LEGEND = (
    ("front", "Pareto set, ± standard error"),
    ("trial", "other trials"),
    ("base", "base"),
    ("parent", "parents"),
    ("uniform", "uniform average"),
)

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #667085; --line: #e3e6ec; --page: #fff;
  --front: #2457d6; --trial: #b3bac7; --base: #1d2330; --parent: #d9730d; --uniform: #1a8a5a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaf0; --soft: #98a2b3; --line: #2c3342;
  --page: #141821; --front: #7ea2ff; --trial: #4a5366; --base: #e8eaf0; --parent: #f2a057;
  --uniform: #4cc38a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1040px; padding: 32px 20px 64px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 17px; margin: 36px 0 8px; }
p { color: var(--soft); margin: 4px 0 12px; max-width: 72ch; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 12px; }
svg { width: 100%; height: auto; } .grid { stroke: var(--line); fill: none; }
.tick, .name { font-size: 11px; fill: var(--soft); } .axis { font-size: 12px; fill: var(--ink); }
.name { stroke: var(--page); stroke-width: 3px; paint-order: stroke; }
.mid { text-anchor: middle; } .end { text-anchor: end; }
.trial { fill: var(--trial); } .front { fill: var(--front); } .base { fill: var(--base); }
.parent { fill: var(--parent); } .uniform { fill: var(--uniform); }
.whisker { stroke: var(--front); stroke-opacity: .35; fill: none; }
.line { stroke: var(--front); stroke-width: 2; fill: none; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; padding: 0; margin: 0; }
.legend svg { width: 12px; height: 12px; margin-right: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; } th { color: var(--soft); font-weight: 500; }
.below td { color: var(--soft); } .below tr:first-child td { border-top: 2px solid var(--line); }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
"""


@dataclass(frozen=True)
class Content:
    """What the page shows.

    Attributes:
        name: of the study.
        measured: trials that ended with values, in order.
        front: numbers of the Pareto set.
        hypervolumes: after each trial, None before the reference point was known.
        facts: name and text of the lines under the heading.
    """

    name: str
    goals: Sequence[Goal]
    measured: Sequence[Trial]
    front: frozenset[int]
    hypervolumes: Sequence[float | None]
    facts: Sequence[tuple[str, str]]


def page(content: Content) -> str:
    """The whole HTML document."""
    facts = " · ".join(f"{escape(name)} {escape(text)}" for name, text in content.facts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(content.name)}: front</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(content.name)}</h1><p>{facts}</p>"
        f"{_fronts(content)}{_table(content)}{_progress(content)}</body></html>\n"
    )


def _fronts(content: Content) -> str:
    pairs = list(combinations(content.goals, 2))
    if not pairs:
        return _single(content)
    panels = "".join(f"<div>{_panel(content, x, y)}</div>" for x, y in pairs)
    return (
        "<h2>The front</h2><p>Means over the search items, which every trial was measured on, in "
        "the goals' own units. Hover a mark for its trial.</p>"
        f'{_legend(content)}<div class="panels">{panels}</div>'
    )


def _single(content: Content) -> str:
    metric = content.goals[0].metric
    values = [_value(trial, metric) for trial in content.measured]
    means = [value.mean if value else None for value in values]
    chart = step_line(means, x_label="trial", y_label=metric)
    return f'<h2>{escape(metric)} by trial</h2><div class="panels"><div>{chart}</div></div>'


def _panel(content: Content, x: Goal, y: Goal) -> str:
    marks = [
        mark
        for trial in content.measured
        if (mark := _mark(trial, x.metric, y.metric, trial.number in content.front)) is not None
    ]
    return scatter(marks, x_label=_axis(x), y_label=_axis(y))


def _axis(goal: Goal) -> str:
    return f"{goal.metric} ({'higher' if goal.sign < 0 else 'lower'} is better)"


def _mark(trial: Trial, x: str, y: str, on_front: bool) -> Mark | None:
    across, along = _value(trial, x), _value(trial, y)
    if across is None or along is None:
        return None
    origin = trial.candidate.origin
    kind = _kind(origin) or ("front" if on_front else "trial")
    return Mark(
        across.mean,
        along.mean,
        kind,
        f"trial {trial.number}, {origin}: {x} {across.mean:.4g}, {y} {along.mean:.4g}",
        "" if kind in ("front", "trial") else model_of(origin) or origin,
        across.standard_error or 0.0,
        along.standard_error or 0.0,
    )


def _kind(origin: str) -> str | None:
    return REFERENCES.get(origin) if model_of(origin) is None else "parent"


def _value(trial: Trial, metric: str) -> Measured | None:
    return trial.results.get("search", {}).get(metric)


def _legend(content: Content) -> str:
    there = {"front", "trial", *(_kind(trial.candidate.origin) for trial in content.measured)}
    rows = "".join(
        f"<li>{_swatch(kind)}{escape(text)}</li>" for kind, text in LEGEND if kind in there
    )
    return f'<ul class="legend">{rows}</ul>'


def _swatch(kind: str) -> str:
    round_ = kind in ("front", "trial")
    shape = f'<circle class="{kind}" cx="6" cy="6" r="5"/>'
    diamond = f'<path class="{kind}" d="M6 0l6 6l-6 6l-6-6z"/>'
    return f'<svg viewBox="0 0 12 12" aria-hidden="true">{shape if round_ else diamond}</svg>'


def _table(content: Content) -> str:
    held_out = any("test" in trial.results for trial in content.measured)
    split: Split = "test" if held_out else "search"
    note = (
        "Means ± standard error over the test items, which chose nothing; below the set, what it "
        "has to beat."
        if held_out
        else "Means ± standard error over the search items; they chose the set and flatter it."
    )
    head = ["trial", "proposed by", *(goal.metric for goal in content.goals)]
    chosen = [trial for trial in content.measured if trial.number in content.front]
    others = [t for t in content.measured if t not in chosen and _is_reference(t)]
    rows = [_table_row(trial, content.goals, split) for trial in chosen]
    below = [_table_row(trial, content.goals, split) for trial in others]
    return f"<h2>The Pareto set</h2><p>{note}</p>{_html_table(head, rows, below)}"


def _is_reference(trial: Trial) -> bool:
    return _kind(trial.candidate.origin) is not None


def _table_row(trial: Trial, goals: Sequence[Goal], split: Split) -> list[str]:
    measured = trial.results.get(split, {})
    values = [_interval(measured.get(goal.metric)) for goal in goals]
    return [str(trial.number), trial.candidate.origin, *values]


def _interval(value: Measured | None) -> str:
    if value is None:
        return "–"
    error = f" ± {value.standard_error:.3f}" if value.standard_error is not None else ""
    return f"{value.mean:.3f}{error}"


def _html_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], below: Iterable[Sequence[str]]
) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body, foot = (
        "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in part
        )
        for part in (rows, below)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody>'
        f'<tbody class="below">{foot}</tbody></table></div>'
    )


def _progress(content: Content) -> str:
    if all(value is None for value in content.hypervolumes):
        return ""
    chart = step_line(content.hypervolumes, x_label="trial", y_label="hypervolume")
    return (
        "<h2>Hypervolume by trial</h2><p>Dominated volume up to the study's reference point, on "
        f'the search items.</p><div class="panels"><div>{chart}</div></div>'
    )
