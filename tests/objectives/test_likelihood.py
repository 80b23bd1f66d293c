"""Log-probabilities: against plain torch, and free of whatever shares the batch."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.objectives.likelihood import padded_length, token_log_probabilities
from evomerge.objectives.models import load_model
from evomerge.objectives.request import Request
from evomerge.objectives.subject import LanguageModel

CPU = torch.device("cpu")


@pytest.fixture
def language(make_folder: Any) -> LanguageModel:
    found = load_model(make_folder(), device="cpu").language
    assert found is not None
    return found


def requests(count: int, longest: int = 128) -> list[Request]:
    draw = random.Random(0)
    lengths = [draw.randint(2, longest) for _ in range(count)]
    return [
        Request(tuple(draw.randrange(256) for _ in range(n)), draw.randint(1, n - 1))
        for n in lengths
    ]


def measured(language: LanguageModel, asked: list[Request], batch_size: int = 4) -> Any:
    with torch.inference_mode():
        return token_log_probabilities(language, asked, batch_size=batch_size, device=CPU)


def plain(language: Any, request: Request) -> torch.Tensor:
    """One sequence at a time, without padding."""
    with torch.inference_mode():
        logits = language.model(torch.tensor([request.tokens[:-1]]))[0, -request.scored :]
    table = logits.log_softmax(-1)
    return table[torch.arange(request.scored), torch.tensor(request.tokens[-request.scored :])]


def test_they_are_those_of_one_sequence_alone(language: Any) -> None:
    asked = requests(12)
    for request, found in zip(asked, measured(language, asked), strict=True):
        assert len(found) == request.scored
        assert torch.allclose(torch.tensor(found), plain(language, request), atol=2e-5)


def test_no_batch_mate_changes_a_bit(language: LanguageModel) -> None:
    asked = requests(40)
    together = measured(language, asked)
    assert together == [measured(language, [request])[0] for request in asked]
    order = random.Random(1).sample(range(40), 23)
    assert [together[i] for i in order] == measured(language, [asked[i] for i in order])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_nor_in_half_precision(dtype: str, make_folder: Any) -> None:
    language = load_model(make_folder(dtype=dtype), device="cpu").language
    assert language is not None
    asked = requests(10, longest=40)
    assert measured(language, asked) == [measured(language, [r])[0] for r in asked]


def test_choices_of_one_token_share_a_row(language: LanguageModel) -> None:
    @dataclass
    class Counting:
        rows: int = 0
        vocabulary: int = language.vocabulary
        context: int | None = 128

        def logits(self, ids: torch.Tensor, *, keep: int) -> torch.Tensor:
            self.rows += int(ids.any(dim=1).sum())
            return language.logits(ids, keep=keep)

    counting: Any = Counting()
    asked = [Request((5, 6, 7, choice), 1) for choice in range(4)]
    assert measured(counting, asked) == measured(language, asked)
    assert counting.rows == 1


@pytest.mark.parametrize(
    ("tokens", "padded"),
    [(1, 16), (16, 16), (17, 32), (128, 128), (129, 144), (256, 256), (257, 288), (513, 576)],
)
def test_padded_lengths_by_hand(tokens: int, padded: int) -> None:
    assert padded_length(tokens) == padded


def test_padding_wastes_little_and_never_cuts() -> None:
    for tokens in range(1, 5000):
        padded = padded_length(tokens)
        assert tokens <= padded < tokens + max(16, tokens / 8 + 1)


def test_nothing_asked_nothing_answered(language: LanguageModel) -> None:
    assert measured(language, []) == []


def test_sequences_as_long_as_the_context_are_not_padded_beyond_it(make_folder: Any) -> None:
    language = load_model(make_folder(max_position_embeddings=50), device="cpu").language
    assert language is not None
    seen: list[int] = []

    @dataclass
    class Watching:
        vocabulary: int = language.vocabulary
        context: int | None = language.context

        def logits(self, ids: torch.Tensor, *, keep: int) -> torch.Tensor:
            seen.append(ids.shape[1])
            return language.logits(ids, keep=keep)

    watching: Any = Watching()
    measured(watching, [Request(tuple(range(51)), 50), Request(tuple(range(40)), 1)])
    assert sorted(seen) == [48, 50]


def test_a_model_that_answers_nan_is_not_hidden(make_folder: Any, tmp_path: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"][0] = float("nan")

    language = load_model(make_folder(tensors=spoil), device="cpu").language
    assert language is not None
    assert all(value != value for value in measured(language, [Request((1, 2, 3), 2)])[0])
