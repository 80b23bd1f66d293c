"""The page: complete, self-contained, and safe against hostile names."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from evomerge.goals import Goal
from evomerge.report.page import Content, page
from evomerge.trial import Candidate, Measured, Trial, TrialState

GOALS = (Goal("code"), Goal("chat"), Goal("refusals", "minimize"))


def trial(number: int, origin: str, *values: float, test: bool = False) -> Trial:
    measured = {
        goal.metric: Measured(value, 0.02, 100) for goal, value in zip(GOALS, values, strict=True)
    }
    results = {"search": measured, **({"test": measured} if test else {})}
    candidate = Candidate(number, origin, "sparse_signed", {})
    return Trial(candidate, TrialState.DONE, results=results)  # type: ignore[arg-type]


TRIALS = (
    trial(0, "base", 0.2, 0.2, 0.1),
    trial(1, "parent math", 0.5, 0.1, 0.1),
    trial(2, "sobol", 0.6, 0.3, 0.05, test=True),
)


def content(**changes: object) -> Content:
    fields = {
        "name": "demo",
        "goals": GOALS,
        "measured": TRIALS,
        "front": frozenset({2}),
        "hypervolumes": (None, 0.1, 0.3),
        "facts": (("trials", "3"),),
    }
    return Content(**{**fields, **changes})  # type: ignore[arg-type]


class Tags(HTMLParser):
    """Counts tags and checks that they close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "path", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "circle"):
            assert self.open.pop() == tag


def test_three_goals_make_three_panels_a_table_and_a_progress_chart() -> None:
    tags = Tags()
    tags.feed(page(content()))
    assert tags.open == []
    charts = [tag for tag in tags.seen if tag == "svg"]
    assert len(charts) == 3 + 1 + 4  # panels, progress, swatches of what is there
    assert tags.seen.count("tr") == 1 + 1 + 2  # head, the set, base and parent below it


def test_the_page_reaches_for_nothing_outside_itself() -> None:
    assert not re.search(r"https?://|<script|<link|@import|url\(", page(content()))


def test_the_table_shows_test_values_where_there_are_some_and_says_so() -> None:
    assert "chose nothing" in page(content())
    assert "flatter" in page(content(measured=TRIALS[:2], front=frozenset({1})))


def test_a_hostile_name_stays_text() -> None:
    assert "<img" not in page(content(name='<img src=x onerror="1">'))


def test_one_goal_is_a_line_by_trial() -> None:
    assert "code by trial" in page(content(goals=GOALS[:1]))


def test_a_study_without_values_still_makes_a_page() -> None:
    assert "</html>" in page(content(measured=(), front=frozenset(), hypervolumes=()))
