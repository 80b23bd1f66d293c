"""Metrics of one item, with numbers worked by hand."""

from __future__ import annotations

import math

import pytest

from evomerge.objectives.matching import Matcher
from evomerge.objectives.verdicts import (
    METRICS,
    Likelihood,
    Metric,
    Verdict,
    judge_answer,
    judge_choice,
    judge_text,
)


def of(nats: float, size: int = 1) -> Likelihood:
    return Likelihood(nats, size, size, size)


@pytest.mark.parametrize(
    ("metric", "score", "margin"),
    [
        ("accuracy", 0.0, -1.0),  # -4 against -3
        ("accuracy_norm", 1.0, 1.0),  # -4 / 2 against -3 / 1
        ("probability", 1 / (1 + math.e), -1.0),
        ("log_likelihood", -2 / math.log(2), None),  # of the right one: two nats a byte
        ("perplexity", math.exp(2), None),
    ],
)
def test_a_choice(metric: Metric, score: float, margin: float | None) -> None:
    found = judge_choice(metric, [of(-3), of(-4, 2)], 1, "none")
    assert found.score == pytest.approx(score) and found.margin == pytest.approx(margin)


def test_normalization_by_bytes_chars_and_tokens() -> None:
    right, wrong = Likelihood(-6, tokens=3, bytes=6, chars=2), of(-2)
    margins = [
        judge_choice("accuracy", [right, wrong], 0, by).margin
        for by in ("none", "bytes", "chars", "tokens")
    ]
    assert margins == [-4, 1, -1, 0]


def test_a_tie_is_wrong_and_nan_is_reported() -> None:
    assert judge_choice("accuracy", [of(-1), of(-1)], 0, "none") == Verdict(0.0, 0.0)
    for metric in METRICS["multiple_choice"]:
        assert math.isnan(judge_choice(metric, [of(math.nan), of(-1)], 0, "none").score)
    for metric in METRICS["exact_match"]:
        matcher = Matcher(("a",), ("\n",))
        assert math.isnan(judge_answer(metric, matcher, "a", [of(math.nan)]).score)


def test_a_hopeless_choice_has_no_probability_and_a_margin_still() -> None:
    found = judge_choice("probability", [of(-2000), of(-1)], 0, "none")
    assert found == Verdict(0.0, -1999.0)


@pytest.mark.parametrize(
    ("text", "exact", "contains", "f1"),
    [
        ("the Eiffel tower", 0.0, 0.0, 1.0),  # case and articles do not count for f1
        (" Eiffel Tower\nand more", 1.0, 1.0, 1.0),
        ("It is Eiffel Tower!", 0.0, 1.0, 2 / 3),  # 2 shared of 4 and 2 words
        ("", 0.0, 0.0, 0.0),
        ("Paris\nEiffel Tower", 0.0, 0.0, 0.0),
    ],
)
def test_an_answer(text: str, exact: float, contains: float, f1: float) -> None:
    matcher = Matcher(("Eiffel Tower", "La tour"), ("\n",))
    accepted = [of(-6, 3), of(-3, 3)]
    wanted: dict[Metric, float] = {"exact_match": exact, "contains": contains, "f1": f1}
    for metric, score in wanted.items():
        assert judge_answer(metric, matcher, text, accepted) == Verdict(pytest.approx(score), -1.0)
    assert judge_answer("perplexity", matcher, text, accepted).score == pytest.approx(math.e)


def test_a_text() -> None:
    assert judge_text("log_likelihood", of(-math.log(4), 2)) == Verdict(-1.0)
    assert judge_text("perplexity", of(-2000)) == Verdict(math.inf)
