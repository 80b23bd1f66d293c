"""Charts: axes, ticks and marks."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.report.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Mark,
    axis,
    scatter,
    step_line,
)

FINITE = st.floats(-1e6, 1e6)


def test_an_axis_maps_its_ends_to_pixels() -> None:
    x = Axis(0, 10, 100, 200)
    assert (x(0), x(5), x(10)) == (100, 150, 200)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-3, 4, [-2, 0, 2, 4]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert Axis(low, high, 0, 1).ticks() == pytest.approx(ticks)


@given(st.lists(FINITE, max_size=5))
def test_an_axis_holds_its_values_with_room_around_them(values: list[float]) -> None:
    x = axis(values, 0, 100)
    assert all(0 < x(value) < 100 for value in values)
    assert 2 <= len(x.ticks()) <= 12


@given(st.lists(st.tuples(FINITE, FINITE), max_size=4))
def test_a_scatter_is_well_formed_whatever_the_points(points: list[tuple[float, float]]) -> None:
    marks = [Mark(x, y, "front", "t", x_error=0.1) for x, y in points]
    root = ET.fromstring(scatter(marks, x_label="a", y_label="b"))
    assert len(root.findall(".//circle")) == len(points)


def test_whiskers_end_inside_the_frame() -> None:
    marks = [Mark(0, 0, "front", "t", x_error=1.0, y_error=5.0), Mark(1, 1, "trial", "t")]
    path = ET.fromstring(scatter(marks, x_label="a", y_label="b")).find(".//path[@class='whisker']")
    assert path is not None
    left, right = re.findall(r"M([\d.-]+) [\d.-]+H([\d.-]+)", path.attrib["d"])[0]
    low, high = re.findall(r"M[\d.-]+ ([\d.-]+)V([\d.-]+)", path.attrib["d"])[0]
    assert LEFT < float(left) < float(right) < WIDTH - RIGHT
    assert TOP < float(high) < float(low) < HEIGHT - BOTTOM


def test_names_of_neighbours_do_not_cover_each_other() -> None:
    marks = [Mark(0.5, 0.5 + i / 1000, "parent", "t", f"model-{i}") for i in range(3)]
    marks += [Mark(0, 0, "base", "t"), Mark(2, 2, "trial", "t")]
    names = ET.fromstring(scatter(marks, x_label="a", y_label="b")).findall(
        ".//text[@class='name']"
    )
    feet = sorted(float(name.attrib["y"]) for name in names)
    assert len(feet) == 3 and all(b - a >= 12 for a, b in pairwise(feet))


def test_names_from_outside_are_text_never_markup() -> None:
    drawn = scatter([Mark(0, 0, "parent", "<b>", "<script>")], x_label="a&b", y_label='"')
    assert "<script>" not in drawn
    assert ET.fromstring(drawn) is not None


def test_a_step_line_starts_where_values_start() -> None:
    drawn = step_line([None, None, 1.0, 2.0], x_label="trial", y_label="hv")
    path = ET.fromstring(drawn).find(".//path[@class='line']")
    assert path is not None and path.attrib["d"].count("V") == 2
    assert "line" not in step_line([None], x_label="t", y_label="hv").split("grid")[-1]
