"""Items of the demo's skills: well formed, repeatable, and of text that nothing was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge.demo import skills, texts
from evomerge.demo.skills import SKILLS, Skill
from evomerge.objectives.jsonl import JsonlObjective


@pytest.mark.parametrize("skill", SKILLS, ids=[skill.name for skill in SKILLS])
class TestEverySkill:
    def test_items_have_four_distinct_choices(self, skill: Skill) -> None:
        items = skill.items(0, 400)
        assert len(items) == 400
        for item in items:
            assert len(set(item.choices)) == 1 + skills.WRONG
            assert len({len(choice) for choice in item.choices}) == 1  # none is likelier by length
            assert 0 <= item.answer < len(item.choices)

    def test_the_right_choice_stands_anywhere(self, skill: Skill) -> None:
        places = [item.answer for item in skill.items(0, 400)]
        assert all(places.count(i) > 60 for i in range(4))

    def test_a_seed_decides_everything(self, skill: Skill) -> None:
        assert skill.items(3, 20) == skill.items(3, 20) != skill.items(4, 20)
        assert skill.training(3) == skill.training(3) != skill.training(4)

    def test_no_item_stands_in_any_training_text(self, skill: Skill) -> None:
        trained = "\n".join([skills.background(0), *(one.training(0) for one in SKILLS)])
        for item in skill.items(0, 400):
            assert item.prompt + item.choices[item.answer] not in trained

    def test_the_objective_reads_the_items(self, skill: Skill, tmp_path: Path) -> None:
        lines = [item.to_json() for item in skill.items(0, 5)]
        (tmp_path / "items.jsonl").write_text("\n".join(lines))
        objective = JsonlObjective({"items": "items.jsonl"}, folder=tmp_path)
        assert (objective.kind, objective.count) == ("multiple_choice", 5)


def test_sums_are_right_and_their_mistakes_are_not() -> None:
    for item in skills.sum_items(0, 50):
        a, b = item.prompt.strip("\n=").split("+")
        assert [int(choice) == int(a) + int(b) for choice in item.choices].count(True) == 1
        assert int(item.choices[item.answer]) == int(a) + int(b)


def test_a_held_out_sum_is_trained_in_neither_order() -> None:
    assert all(
        skills.sum_is_held_out((a, b)) == skills.sum_is_held_out((b, a))
        for a in range(20)
        for b in range(20)
    )
    for line in skills.sums(0).splitlines():
        a, b = line.partition("=")[0].split("+")
        assert not skills.sum_is_held_out((int(a), int(b)))


def test_an_item_is_one_line_in_the_common_shape() -> None:
    line = skills.Item("2+2=", ("3", "4"), 1).to_json()
    assert json.loads(line) == {"prompt": "2+2=", "choices": ["3", "4"], "answer": 1}


def test_text_is_broken_off_inside_words_of_held_out_documents() -> None:
    held_out = "\n".join(p.text for p in texts.prose() if p.held_out)
    for item in skills.prose_items(0, 50):
        right = item.choices[item.answer]
        assert item.prompt[-1].isalpha()
        assert right[0].isalpha()
        assert item.prompt + right in held_out
