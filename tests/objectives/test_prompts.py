"""Worked examples, instructions and chats, as texts and turns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import UsageError
from evomerge.objectives.jsonl_items import ExactMatch, MultipleChoice
from evomerge.objectives.prompts import Shots, Wording, between, chat_messages, plain_prompt

SUM = ExactMatch("1+1=", ("2", "two"), "f:1")
CHOICE = MultipleChoice("Red is", ("grass", "blood"), 1, "f:2")


def test_worked_examples_show_the_first_answer_or_the_right_choice() -> None:
    item = ExactMatch("3+4=", ("7",), "f:3")
    assert plain_prompt(item, (SUM, CHOICE), Wording()) == "1+1= 2\n\nRed is blood\n\n3+4="
    worded = Wording(delimiter="", separator="\n", system="Add.")
    assert plain_prompt(item, (SUM,), worded) == "Add.\n1+1=2\n3+4="


def test_the_same_as_turns() -> None:
    turns = [(m["role"], m["content"]) for m in chat_messages(CHOICE, (SUM,), Wording(system="S"))]
    assert turns == [("system", "S"), ("user", "1+1="), ("assistant", "2"), ("user", "Red is")]


@pytest.mark.parametrize(
    ("prompt", "answer", "text"), [("p", "a", " "), ("p ", "a", ""), ("p", " a", ""), ("", "a", "")]
)
def test_one_space_unless_there_is_white_space(prompt: str, answer: str, text: str) -> None:
    assert between(prompt, answer, None) == text
    assert between(prompt, answer, "-") == "-"


def items(count: int) -> list[Any]:
    return [ExactMatch(f"{i}", ("x",), f"f:{i + 1}") for i in range(count)]


@given(count=st.integers(1, 30), shots=st.integers(0, 8), seed=st.integers(0, 99))
def test_never_the_item_itself_and_the_same_few_for_all(count: int, shots: int, seed: int) -> None:
    pool = items(count)
    made = Shots(pool, shots, seed=seed)
    for item in pool:
        if shots >= count:
            if shots:
                with pytest.raises(UsageError, match="worked examples are wanted"):
                    made.of(item)
            continue
        found = made.of(item)
        assert len(set(found)) == shots and item not in found
    if shots < count - 1:
        assert len({shot for item in pool for shot in made.of(item)}) <= shots + 1


def test_the_seed_decides() -> None:
    pool = items(30)
    chosen = {Shots(pool, 3, seed=seed).of(pool[0]) for seed in range(5)}
    assert len(chosen) > 1
    assert Shots(pool, 3, seed=1).of(pool[0]) == Shots(pool, 3, seed=1).of(pool[0])


def test_a_double_of_the_item_in_another_file_is_passed_over() -> None:
    twin = ExactMatch("1+1=", ("2",), "other:1")
    assert Shots([twin, CHOICE], 1, seed=0).of(SUM) == (CHOICE,)
