"""Greedy generation: against transformers' own, free of batch mates, and when it stops."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.objectives.batches import Batches
from evomerge.objectives.generation import Prompt, greedy
from evomerge.objectives.matching import Matcher
from evomerge.objectives.models import load_model
from evomerge.objectives.subject import LanguageModel

os.environ["HF_HUB_OFFLINE"] = "1"
CPU = torch.device("cpu")


def never(written: Sequence[int]) -> bool:
    return False


def prompts(count: int, longest: int = 40) -> list[Prompt]:
    draw = random.Random(0)
    return [
        Prompt(
            tuple(draw.randrange(256) for _ in range(draw.randint(1, longest))),
            draw.randint(1, 12),
            never,
        )
        for _ in range(count)
    ]


def written(language: LanguageModel, asked: list[Prompt], batch_size: int = 4) -> list[list[int]]:
    with torch.inference_mode():
        return greedy(language, asked, batches=Batches(batch_size), device=CPU)


@pytest.fixture
def language(make_folder: Any) -> LanguageModel:
    found = load_model(make_folder(), device="cpu").language
    assert found is not None
    return found


def test_it_writes_what_transformers_writes(make_folder: Any) -> None:
    import transformers

    folder = make_folder()
    language = load_model(folder, device="cpu").language
    assert language is not None
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    for prompt, ours in zip(prompts(9), written(language, prompts(9)), strict=True):
        ids = list(prompt.tokens)
        while len(ids) < len(prompt.tokens) + prompt.limit and ids[-1] != 257:
            with torch.inference_mode():
                ids.append(int(theirs(torch.tensor([ids])).logits[0, -1].argmax()))
        assert ours == [token for token in ids[len(prompt.tokens) :] if token != 257]


def test_no_batch_mate_changes_a_token(language: LanguageModel) -> None:
    asked = prompts(15)
    assert written(language, asked) == [written(language, [prompt])[0] for prompt in asked]


def test_the_end_of_text_ends_a_text(language: LanguageModel) -> None:
    class Ending:
        """Writes 65, 66, and the end."""

        ends = frozenset({257})
        vocabulary = 259
        context = None

        def reader(self, *, rows: int, length: int) -> Any:
            self.seen = torch.zeros(rows, 0, dtype=torch.int64)
            return self

        def read(self, ids: torch.Tensor, *, rows: Any) -> torch.Tensor:
            self.seen = torch.cat([self.seen, ids], dim=1)
            following = {65: 66, 66: 257}
            logits = torch.zeros(len(ids), 259)
            for row, token in enumerate(ids[:, -1].tolist()):
                logits[row, following.get(token, 65)] = 1
            return logits

    ending: Any = Ending()
    asked = [Prompt((1,), 5, never), Prompt((1, 2, 3), 1, never), Prompt((1, 2), 5, len)]
    assert written(ending, asked) == [[65, 66], [65], [65]]


@pytest.mark.parametrize(
    ("text", "right", "decided"),
    [
        ("", False, False),
        ("4", False, False),
        ("42", True, False),
        (" 42 ", True, False),
        ("42\n", True, True),
        ("42 \n7", True, True),
        ("420", False, True),
        ("43", False, True),
        ("\n42", False, True),
        ("42 Q", False, False),  # may become the stop text
        ("42 Q:", True, True),
        ("42 x", False, True),
        ("4\ufffd", False, False),  # half a character
        ("forty", False, False),
        ("forty two", True, False),
        ("fort-", False, True),
    ],
)
def test_matching_by_hand(text: str, right: bool, decided: bool) -> None:
    matcher = Matcher(("42", "forty two"), ("\n", "Q:"))
    assert matcher.matches(text) == right
    assert matcher.decided(text) == decided


TEXT = st.text(alphabet="ab \n#", max_size=6)


@given(TEXT.filter(str.strip), TEXT, TEXT, st.lists(TEXT.filter(bool), max_size=2))
def test_what_is_decided_stays(answer: str, text: str, more: str, stop: list[str]) -> None:
    matcher = Matcher((answer,), tuple(stop))
    if matcher.decided(text):
        assert matcher.matches(text + more) == matcher.matches(text)
