"""Logits fused: by hand on three tokens, and over tiny models from disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from evomerge.errors import CheckpointError, UsageError
from evomerge.objectives.jsonl import JsonlObjective
from evomerge.objectives.logit_fusion import (
    Ensemble,
    FusedLanguageModel,
    Rule,
    divergence,
    matching_scale,
)
from evomerge.objectives.models import load_model
from evomerge.objectives.subject import LiveModel
from evomerge.objectives.tokens import ByteTokenizer
from evomerge.recipe.logit_fusion import LogitFusion, Mode
from evomerge.trial import Scores
from tests.objectives.conftest import MakeFolder

SUMS = [
    {"prompt": f"{a}+{b}=", "choices": [str(a + b), "other", "no"], "answer": 0}
    for a in range(3)
    for b in range(2)
]
WORDS = [{"prompt": f"say {word}", "answer": word} for word in ("a", "bc", "def")]
SHARED = "a prompt that is long enough to be read once for all"
LONG = [{"prompt": SHARED, "choices": ["one", "two", "three"], "answer": 1}]
MODES: tuple[Mode, ...] = ("static", "matched")


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers], dtype=torch.float32)


def test_weights_move_the_large_model_by_what_small_models_have_learnt() -> None:
    large, base = row(1, 0, 0), row(0, 1, 0)
    math_model, code_model = row(2, 1, 0), row(0, 1, 4)
    # 1 + 0.5 * (2 - 0) + 0.25 * 0, 0 + 0 + 0, 0 + 0 + 0.25 * (4 - 0)
    fused = Rule((0.5, 0.25)).fuse([large, base, math_model, code_model])
    assert fused.tolist() == [[2, 0, 1]]


def test_a_negative_weight_pushes_away() -> None:
    assert Rule((-1.0,)).fuse([row(1, 0, 0), row(0, 0, 0), row(3, 0, 1)]).tolist() == [[-2, 0, -1]]


def test_without_small_models_the_large_one_answers() -> None:
    half = row(1, 0.5, -2).to(torch.bfloat16)
    fused = Rule(()).fuse([half])
    assert fused.dtype == torch.float32
    assert fused.tolist() == [[1, 0.5, -2]]


@pytest.mark.parametrize("mode", MODES)
def test_a_model_that_has_learnt_nothing_changes_no_bit(mode: Mode) -> None:
    random = torch.Generator().manual_seed(0)
    large, base = (torch.randn(4, 7, generator=random) for _ in range(2))
    assert torch.equal(Rule((1.3,), mode).fuse([large, base, base.clone()]), large)


def test_tokens_that_only_the_large_model_has_stay_as_they_are() -> None:
    assert Rule((1.0,)).fuse([row(1, 2, 3), row(0, 0), row(5, 5)]).tolist() == [[6, 7, 3]]
    assert Rule((1.0,)).fuse([row(1, 2), row(0, 0, 0), row(5, 5, 9)]).tolist() == [[6, 7]]


def test_how_far_a_shift_moves_a_model() -> None:
    # From (1/2, 1/2) to (3/4, 1/4): 3/4 ln(3/2) + 1/4 ln(1/2).
    found = divergence(row(0, 0), row(math.log(3), 0))
    assert found.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_a_scale_moves_the_large_model_as_far_as_the_small_one_went() -> None:
    shift = row(1.0, -0.5, 0.2)
    small = row(0.3, 0.0, -1.0)
    near_1 = pytest.approx(1, abs=1e-4)
    assert matching_scale(small, shift, divergence(small, shift)).item() == near_1
    # A constant does not change a softmax: a model of the same opinion has the same scale.
    assert matching_scale(small + 5, shift, divergence(small, shift)).item() == near_1
    sure = row(1.0, 0.0, 0.5)
    target = divergence(small, shift)
    scale = matching_scale(sure, shift, target)
    assert divergence(sure, scale * shift).item() == pytest.approx(target.item(), rel=1e-4)


def test_no_scale_is_above_two() -> None:
    sure, shift = row(30.0, 0.0, 0.0), row(-1.0, 1.0, 0.0)
    assert matching_scale(sure, shift, divergence(row(0, 0, 0), shift)).item() == 2


def test_matching_finds_the_least_square_of_a_fine_grid() -> None:
    random = torch.Generator().manual_seed(1)
    large, base, model = (torch.randn(5, 6, generator=random) for _ in range(3))
    shift = 0.7 * (model - base)
    target = divergence(base, shift)
    grid = torch.linspace(0, 2, 2001)
    square = torch.stack([(divergence(large, a * shift) - target) ** 2 for a in grid])
    best = grid[square.argmin(dim=0)]
    found = matching_scale(large, shift, target)
    assert torch.allclose(found, best, atol=2e-3)
    fused = Rule((0.7,), "matched").fuse([large, base, model])
    assert torch.allclose(fused, large + found * shift)


def test_each_token_has_a_scale_of_its_own_whatever_stands_beside_it() -> None:
    random = torch.Generator().manual_seed(2)
    parts = [torch.randn(6, 300, generator=random) for _ in range(3)]
    whole = Rule((0.4,), "matched").fuse(parts)
    alone = [Rule((0.4,), "matched").fuse([part[i : i + 1] for part in parts]) for i in range(6)]
    assert torch.equal(whole, torch.cat(alone))


def ensemble(folders: dict[str, Path], mode: Mode = "static") -> Ensemble:
    fusion = LogitFusion(folders["large"], mode)
    return Ensemble.load(fusion, folders["base"], {"math": folders["math"]}, dtype=None)


def answers(subject: LiveModel, items: Path) -> tuple[list[float], list[float] | None]:
    found = JsonlObjective({"items": str(items)}, folder=items.parent).evaluate(subject, None)
    assert isinstance(found, Scores)
    return list(found.items), None if found.margins is None else list(found.margins)


@pytest.mark.parametrize("items", [SUMS, WORDS, LONG], ids=["sums", "words", "long"])
@pytest.mark.parametrize("mode", MODES)
def test_weight_0_is_the_large_model_bit_for_bit(
    folders: dict[str, Path], write_items: Callable[..., Path], items: list[object], mode: Mode
) -> None:
    path = write_items(*items)
    alone = answers(load_model(folders["large"]), path)
    assert answers(ensemble(folders, mode).at({"math": 0.0}), path) == alone
    assert answers(ensemble(folders, mode).at({"math": 1.0}), path) != alone


@pytest.mark.parametrize("mode", MODES)
def test_the_base_as_its_own_model_is_the_large_model_bit_for_bit(
    folders: dict[str, Path], write_items: Callable[..., Path], mode: Mode
) -> None:
    path = write_items(*SUMS)
    alone = answers(load_model(folders["large"]), path)
    same = ensemble({**folders, "math": folders["base"]}, mode)
    assert answers(same.at({"math": 1.5}), path) == alone


def test_a_large_model_that_is_the_small_base_becomes_the_model(
    folders: dict[str, Path], write_items: Callable[..., Path]
) -> None:
    path = write_items(*SUMS)
    same = ensemble({**folders, "large": folders["base"]})
    scores, margins = answers(same.at({"math": 1.0}), path)
    wanted, near = answers(load_model(folders["math"]), path)
    assert scores == wanted
    assert margins == pytest.approx(near, abs=1e-4)


def test_pieces_and_prefixes_say_what_the_whole_says(folders: dict[str, Path]) -> None:
    language = ensemble(folders, "matched").at({"math": 0.8}).language
    assert isinstance(language, FusedLanguageModel)
    ids = torch.tensor([language.encode("1+2=3, 2+2=4")] * 2)
    with torch.inference_mode():
        whole = language.logits(ids, keep=3)
        prefix = language.prefix(ids[:, :-3])
        assert prefix is not None
        assert torch.allclose(prefix.logits([1, 0], ids[:, -3:], keep=3), whole, atol=1e-4)
        reader = language.reader(rows=2, length=ids.shape[1])
        reader.read(ids[:, :-1])
        assert torch.allclose(reader.read(ids[:, -1:]), whole[:, -1], atol=1e-4)


def test_the_shortest_context_of_all_models_counts(
    folders: dict[str, Path], make_folder: MakeFolder
) -> None:
    short = make_folder("short", max_position_embeddings=64)
    model = ensemble({**folders, "math": short}).at({"math": 0.0})
    assert model.language is not None
    assert model.language.context == 64


def test_other_tokenizers_are_refused(folders: dict[str, Path], make_folder: MakeFolder) -> None:
    other = ByteTokenizer.new(eos_token="</s>", bos_token="<bos>", pad_token="<pad>")
    strange = make_folder("strange", tokenizer=other)
    with pytest.raises(CheckpointError, match=r"the token 256 is '<s>' to .* and '<bos>' to "):
        ensemble({**folders, "math": strange})
    (folders["base"] / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"there is no tokenizer.json"):
        ensemble(folders)


def test_all_models_are_loaded_in_one_dtype(folders: dict[str, Path]) -> None:
    fusion = LogitFusion(folders["large"])
    loaded = Ensemble.load(fusion, folders["base"], {}, dtype="BF16")
    for model in (loaded.large, loaded.base):
        assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}


def test_a_model_that_speaks_no_language_is_refused(folders: dict[str, Path]) -> None:
    loaded = ensemble(folders)
    dumb = LiveModel(loaded.large.module, None, loaded.large.device, folders["large"])
    with pytest.raises(UsageError, match="no causal language model"):
        Ensemble(dumb, loaded.base, loaded.models, "static").at({"math": 0.5})
