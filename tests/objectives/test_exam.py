"""What JSONL objectives share of their options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evomerge.errors import UsageError
from evomerge.objectives.exam import Exam, Style
from evomerge.objectives.jsonl_items import Item
from evomerge.objectives.verdicts import Verdict

Write = Callable[..., Path]


def test_items_and_worked_examples_take_the_form_in_which_they_are_asked(
    write_items: Write,
) -> None:
    def louder(item: Item) -> Item:
        return replace(item, prompt=item.prompt.upper())

    path = write_items({"prompt": "one", "answer": "1"}, {"prompt": "two", "answer": "2"})
    options = {"items": path.name, "shots": 1}
    exam = Exam.read(options, path.parent, lambda kind: Style(("f1", "contains"), louder))
    assert [item.prompt for item in exam.items] == ["ONE", "TWO"]
    assert [shot.prompt for shot in exam.shots.of(exam.items[0])] == ["TWO"]
    assert exam.metrics.wanted == ("f1",), "the first that the style can tell"
    assert exam.chosen([1, 1]) == [exam.items[1]] * 2


def test_margins_are_told_where_every_item_has_one(write_items: Write) -> None:
    path = write_items({"prompt": "one", "answer": "1"}, {"prompt": "two", "answer": "2"})
    exam = Exam.read({"items": path.name}, path.parent)
    scores = exam.answer(lambda metric: [Verdict(1.0, 0.5), Verdict(0.0)], {"invalid": 0.5})
    assert (scores.items, scores.margins, scores.rates) == ([1.0, 0.0], None, {"invalid": 0.5})
    whole = exam.answer(lambda metric: [Verdict(1.0, 0.5), Verdict(0.0, -2.0)], {})
    assert whole.margins == [0.5, -2.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"shots_from": "more.jsonl"}, "say `shots`, how many"), ({"shots": 1}, "leave off `shots`")],
)
def test_worked_examples_that_make_no_sense_are_refused(
    options: dict[str, object], message: str, write_items: Write
) -> None:
    path = write_items({"text": "It was"}, {"text": "So it goes"})
    with pytest.raises(UsageError, match=message):
        Exam.read({"items": path.name, **options}, path.parent)
