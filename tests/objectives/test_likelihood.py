"""Log-probabilities: against plain torch, and free of whatever shares the batch."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.objectives.batches import Batches
from evomerge.objectives.likelihood import Likelihoods, padded_length, shared_length
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
    """Each request a set of its own."""
    with torch.inference_mode():
        reader = Likelihoods(language, Batches(batch_size), CPU)
        return [list(found.logs) for (found,) in reader.of([[request] for request in asked])]


def choices(count: int, prompt: int, longest: int = 6) -> list[list[Request]]:
    """Sets of continuations of one prompt each."""
    draw = random.Random(count + prompt)
    sets = []
    for _ in range(count):
        begun = tuple(draw.randrange(256) for _ in range(draw.randint(prompt, prompt + 20)))
        sizes = [draw.randint(1, longest) for _ in range(draw.randint(2, 5))]
        ends = [tuple(draw.randrange(256) for _ in range(size)) for size in sizes]
        sets.append([Request(begun + end, len(end)) for end in ends])
    return sets


def of_sets(language: LanguageModel, sets: list[list[Request]], *, share: bool = True) -> Any:
    with torch.inference_mode():
        found = Likelihoods(language, Batches(4), CPU, share=share).of(sets)
        return [[list(reading.logs) for reading in readings] for readings in found]


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

        def logits(self, ids: torch.Tensor, *, keep: int, places: Any) -> torch.Tensor:
            self.rows += int(ids.any(dim=1).sum())
            return language.logits(ids, keep=keep)

    counting: Any = Counting()
    asked = [Request((5, 6, 7, choice), 1) for choice in range(4)]
    assert of_sets(counting, [asked]) == [measured(language, asked)]
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

        def logits(self, ids: torch.Tensor, *, keep: int, places: Any) -> torch.Tensor:
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


def flat(found: Any) -> torch.Tensor:
    return torch.tensor([log for logs in found for one in logs for log in one])


@pytest.mark.parametrize("prompt", [1, 14, 40, 90])
def test_a_prompt_read_once_for_all_choices_changes_nothing(
    prompt: int, language: LanguageModel
) -> None:
    sets = choices(9, prompt)
    shared, each = of_sets(language, sets), of_sets(language, sets, share=False)
    assert torch.allclose(flat(shared), flat(each), atol=2e-5)
    for a, b in zip(shared, each, strict=True):
        totals = [[sum(logs) for logs in found] for found in (a, b)]
        assert totals[0].index(max(totals[0])) == totals[1].index(max(totals[1]))


def test_nor_does_the_company_of_other_prompts(language: LanguageModel) -> None:
    sets = choices(12, 20)
    together = of_sets(language, sets)
    assert together == [of_sets(language, [one])[0] for one in sets]


def test_prompts_are_shared_by_transformers_too(make_folder: Any) -> None:
    transformers = pytest.importorskip("transformers")
    from evomerge.objectives.hf import CachedPrefix, TransformersLanguageModel

    folder = make_folder()
    module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    hf = TransformersLanguageModel(module, tokenizer, frozenset())
    own = load_model(folder, device="cpu").language
    assert own is not None
    with torch.inference_mode():
        assert isinstance(hf.prefix(torch.tensor([[1, 2, 3]])), CachedPrefix)
    sets = choices(7, 30)
    wanted = flat(of_sets(own, sets, share=False))
    for share in (True, False):
        assert torch.allclose(flat(of_sets(hf, sets, share=share)), wanted, atol=2e-5)


def test_a_model_that_cannot_share_reads_every_choice(language: LanguageModel) -> None:
    @dataclass
    class Recurrent:
        vocabulary: int = language.vocabulary
        context: int | None = language.context

        def prefix(self, ids: torch.Tensor) -> None:
            return None

        def logits(self, ids: torch.Tensor, *, keep: int, places: Any) -> torch.Tensor:
            return language.logits(ids, keep=keep)

    recurrent: Any = Recurrent()
    sets = choices(5, 30)
    assert of_sets(recurrent, sets) == of_sets(language, sets, share=False)


@pytest.mark.parametrize(
    ("texts", "shared"),
    [
        (((1,) * 40 + (2, 3), (1,) * 40 + (4, 5)), 32),  # 39, for one is left to each
        (((1,) * 17 + (2, 3), (1,) * 17 + (4, 5)), 16),
        (((1,) * 16 + (2, 3), (1,) * 16 + (4, 5)), 0),
        (((1,) * 40 + (2, 3), (9,) * 40 + (4, 5)), 0),
        (((1,) * 40 + (2, 3), (1,) * 40 + (2, 5)), 0),  # one row reads for both
    ],
)
def test_what_is_shared_by_hand(texts: tuple[tuple[int, ...], ...], shared: int) -> None:
    assert shared_length([Request(tokens, 2) for tokens in texts]) == shared


def test_whether_a_continuation_is_the_greedy_one(language: Any) -> None:
    with torch.inference_mode():
        ids = [65, 66, 67]
        for _ in range(3):
            ids.append(int(language.model(torch.tensor([ids]))[0, -1].argmax()))
        asked = [[Request(tuple(ids), 3), Request((*ids[:-1], (ids[-1] + 1) % 256), 3)]]
        (found,) = Likelihoods(language, Batches(4), CPU).of(asked)
    assert [reading.greedy for reading in found] == [True, False]


def test_batches_are_halved_where_the_memory_ends() -> None:
    seen: list[int] = []

    def work(chunk: Any, size: int) -> None:
        if size > 2:
            raise torch.OutOfMemoryError
        seen.extend(chunk)

    batches = Batches(16)
    batches.run(range(7), work)
    assert seen == list(range(7)) and batches.size == 2
    with pytest.raises(torch.OutOfMemoryError):
        batches.run([1], lambda chunk, size: (_ for _ in ()).throw(torch.OutOfMemoryError()))
