"""Small charts as inline SVG: scatter of two goals, and a step line over trials. No script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 320
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 46
RADIUS = 4.0
LETTER, LINE = 6.2, 12.0  # of a label: about the width of a letter, and the height of a line


@dataclass(frozen=True)
class Mark:
    """One point of a scatter, in data units.

    Attributes:
        kind: CSS class: ``trial``, ``front``, ``base``, ``parent`` or ``uniform``.
        x_error, y_error: standard errors, drawn as whiskers; 0 draws none.
        label: drawn beside the mark when not empty.
        title: shown by the browser on hover.
    """

    x: float
    y: float
    kind: str
    title: str
    label: str = ""
    x_error: float = 0.0
    y_error: float = 0.0


@dataclass(frozen=True)
class Axis:
    """A linear map from data units to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values inside the axis, about as many as wanted (steps of 1, 2 or 5 by tens)."""
        raw = (self.high - self.low) / wanted
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(k * power for k in (1, 2, 5, 10) if k * power >= raw)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def axis(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis that holds all values with a margin of 6 %; a single value gets room around it."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return Axis(low - margin, high + margin, start, end)


def scatter(marks: Sequence[Mark], *, x_label: str, y_label: str) -> str:
    """A scatter of two goals in the users' units, as one ``<svg>`` element."""
    with_errors = [mark for mark in marks if mark.kind == "front"]
    x = axis(
        _extent([(m.x, 0.0) for m in marks] + [(m.x, m.x_error) for m in with_errors]),
        LEFT,
        WIDTH - RIGHT,
    )
    y = axis(
        _extent([(m.y, 0.0) for m in marks] + [(m.y, m.y_error) for m in with_errors]),
        HEIGHT - BOTTOM,
        TOP,
    )
    order = {"trial": 0, "front": 1}
    drawn = sorted(marks, key=lambda mark: order.get(mark.kind, 2))
    body = [_frame(x, y, x_label, y_label)]
    body += [_whiskers(mark, x, y) for mark in with_errors]
    body += [_mark(mark, x, y) for mark in drawn]
    body += _names([mark for mark in drawn if mark.label], x, y)
    return _svg(body, f"{y_label} against {x_label}")


def _extent(values: Sequence[tuple[float, float]]) -> list[float]:
    """Both ends of each value plus or minus its error."""
    return [end for value, error in values for end in (value - error, value + error)]


def step_line(values: Sequence[float | None], *, x_label: str, y_label: str) -> str:
    """A value after each trial, as a step line; None leaves a gap at the start."""
    points = [(i, value) for i, value in enumerate(values) if value is not None]
    x = axis([0.0, float(max(len(values) - 1, 1))], LEFT, WIDTH - RIGHT)
    y = axis([value for _, value in points], HEIGHT - BOTTOM, TOP)
    path = ""
    for i, value in points:
        across = f"H{x(i):.1f}" if path else f"M{x(i):.1f} {y(value):.1f}"
        path += f"{across}V{y(value):.1f}"
    line = f'<path class="line" d="{path}"/>' if path else ""
    return _svg([_frame(x, y, x_label, y_label), line], f"{y_label} by {x_label}")


def _svg(body: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        + "".join(body)
        + "</svg>"
    )


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    bottom, left = HEIGHT - BOTTOM, LEFT
    parts = []
    for tick in x.ticks():
        at = x(tick)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" class="tick mid">{tick:.4g}</text>')
    for tick in y.ticks():
        at = y(tick)
        parts.append(f'<path class="grid" d="M{left} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{left - 6}" y="{at + 4:.1f}" class="tick end">{tick:.4g}</text>')
    middle_x, middle_y = (left + WIDTH - RIGHT) / 2, (TOP + bottom) / 2
    parts.append(
        f'<text x="{middle_x}" y="{HEIGHT - 8}" class="axis mid">{escape(x_label)}</text>'
        f'<text transform="translate(14 {middle_y}) rotate(-90)" class="axis mid">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def _whiskers(mark: Mark, x: Axis, y: Axis) -> str:
    across = f"M{x(mark.x - mark.x_error):.1f} {y(mark.y):.1f}H{x(mark.x + mark.x_error):.1f}"
    along = f"M{x(mark.x):.1f} {y(mark.y - mark.y_error):.1f}V{y(mark.y + mark.y_error):.1f}"
    return f'<path class="whisker" d="{across}{along}"/>'


def _mark(mark: Mark, x: Axis, y: Axis) -> str:
    cx, cy = x(mark.x), y(mark.y)
    title = f"<title>{escape(mark.title)}</title>"
    if mark.kind in ("trial", "front"):
        radius = RADIUS if mark.kind == "front" else 0.6 * RADIUS
        shape = (
            f'<circle class="{mark.kind}" cx="{cx:.1f}" cy="{cy:.1f}" r="{radius}">{title}</circle>'
        )
    else:
        r = 1.2 * RADIUS
        diamond = f"M{cx:.1f} {cy - r:.1f}l{r} {r}l{-r} {r}l{-r} {-r}z"
        shape = f'<path class="{mark.kind}" d="{diamond}">{title}</path>'
    return shape


def _names(marks: Sequence[Mark], x: Axis, y: Axis) -> list[str]:
    """The labels, each beside its mark and moved down by lines where it would cover another."""
    texts: list[str] = []
    placed: list[tuple[float, float, float]] = []  # left end, right end, foot, in pixels
    for mark in sorted(marks, key=lambda one: y(one.y)):
        cx, foot = x(mark.x), y(mark.y) - 5
        length = LETTER * len(mark.label)
        right = cx + 7 + length < WIDTH
        left = cx + 7 if right else cx - 7 - length
        while any(
            left < end and start < left + length and abs(foot - other) < LINE
            for start, end, other in placed
        ):
            foot += 1
        placed.append((left, left + length, foot))
        anchor, at = ("", cx + 7) if right else (" end", cx - 7)
        texts.append(
            f'<text class="name{anchor}" x="{at:.1f}" y="{foot:.1f}">{escape(mark.label)}</text>'
        )
    return texts
