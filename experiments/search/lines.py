"""Plots of medians against the number of merges, as one SVG page of panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10

from evomerge.report.chart import axis

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, GAP = 430, 300, 56, 40, 26, 110
TICKS = (25, 50, 100, 200, 500, 1000, 2000)
COLOURS = (
    "#c1272d",
    "#f08030",
    "#7a1fa2",
    "#1f6fb2",
    "#20948b",
    "#555555",
    "#aaaaaa",
    "#8a6d3b",
    "#000000",
)
COLUMNS = 3  # panels side by side


@dataclass(frozen=True)
class Line:
    """One method's medians, ``(merges, median)`` in rising order."""

    name: str
    points: list[tuple[int, float]]


def page(panels: Sequence[tuple[str, Sequence[Line]]]) -> str:
    """All panels; each has a title, and its lines' names beside their ends.

    A name has the same colour in all of them.
    """
    names = list(dict.fromkeys(line.name for _, lines in panels for line in lines))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    across = WIDTH + GAP
    rows = -(-len(panels) // COLUMNS)
    body = []
    for number, (title, lines) in enumerate(panels):
        x, y = number % COLUMNS * across, number // COLUMNS * HEIGHT
        body.append(f'<g transform="translate({x} {y})">{_panel(title, lines, colours)}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * across} {rows * HEIGHT}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        + "".join(body)
        + "</svg>\n"
    )


def _panel(title: str, lines: Sequence[Line], colours: Mapping[str, str]) -> str:
    x = axis([log10(tick) for tick in TICKS], LEFT, WIDTH)
    y = axis([value for line in lines for _, value in line.points], HEIGHT - BOTTOM, TOP)
    parts = [f'<text x="{LEFT}" y="16" font-size="12">{escape(title)}</text>']
    for tick in TICKS:
        at = x(log10(tick))
        parts.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eee"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{tick}</text>'
        )
    for value in y.ticks():
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH}" stroke="#eee"/>')
        parts.append(
            f'<text x="{LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>'
        )
    lowest = 0.0  # of the names so far, which do not overlap
    for line in sorted(lines, key=lambda one: y(one.points[-1][1])):
        colour = colours[line.name]
        path = " ".join(f"{x(log10(n)):.1f},{y(value):.1f}" for n, value in line.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lowest = max(lowest + 12, y(line.points[-1][1]) + 4)
        parts.append(f'<text x="{WIDTH + 4}" y="{lowest:.1f}" fill="{colour}">{line.name}</text>')
    return "".join(parts)
