"""Several goals from one pass: which goal gets which metric."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.errors import UsageError
from evomerge.objectives.metrics import Metrics
from evomerge.trial import Scores

KNOWN = ("accuracy", "perplexity")
SCORES = {"accuracy": Scores([1.0]), "perplexity": Scores([7.0])}


def test_one_metric_goes_to_whichever_goal_asks() -> None:
    assert Metrics.read(None, KNOWN).answer(SCORES) == Scores([1.0])
    assert Metrics.read("perplexity", KNOWN).answer(SCORES) == Scores([7.0])


def test_a_list_names_the_goals_as_the_metrics() -> None:
    assert Metrics.read(["accuracy", "perplexity"], KNOWN).answer(SCORES) == SCORES


def test_a_mapping_names_the_goals() -> None:
    read = Metrics.read({"a": "accuracy", "b": "perplexity", "c": "accuracy"}, KNOWN)
    assert read.wanted == KNOWN
    assert read.answer(SCORES) == {"a": Scores([1.0]), "b": Scores([7.0]), "c": Scores([1.0])}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("acuracy", "did you mean 'accuracy'"),
        (["accuracy", "f2"], "no metric 'f2'"),
        ({"a": "b"}, "no metric 'b'"),
        ([], "a list of metrics"),
        ({}, "a mapping of goals"),
        (3, "metrics is 3"),
        ([3], "a list of metrics"),
    ],
)
def test_a_senseless_option(given: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Metrics.read(given, KNOWN)
