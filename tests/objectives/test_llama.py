"""The built-in Llama against transformers' own, and what it promises beside that."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from evomerge.errors import CheckpointError
from evomerge.objectives.llama import Llama, causal_attention, initialise, rotate, rotations
from evomerge.objectives.llama_config import LlamaConfig, obstacles
from evomerge.objectives.models import load_model

os.environ["HF_HUB_OFFLINE"] = "1"
MakeFolder = Callable[..., Path]

SMALL = LlamaConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    bos_token_id=1,
    eos_token_id=(2,),
)


def small(seed: int = 0) -> Llama:
    model = Llama(SMALL)
    initialise(model, torch.Generator().manual_seed(seed))
    return model


def ids(rows: int = 2, tokens: int = 9) -> torch.Tensor:
    return torch.randint(0, 50, (rows, tokens), generator=torch.Generator().manual_seed(3))


def to_version_5(config: dict[str, Any]) -> None:
    """As transformers 5 writes it, where conftest writes as version 4 does."""
    config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
    config["dtype"] = config.pop("torch_dtype")


@pytest.mark.parametrize("edit", [lambda config: None, to_version_5], ids=["version 4", "5"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_logits_equal_those_of_transformers(
    make_folder: MakeFolder, shared: int, tied: bool, edit: Any
) -> None:
    import transformers

    folder = make_folder(num_key_value_heads=shared, tie_word_embeddings=tied, edit=edit)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ours = load_model(folder, device="cpu").module
    assert isinstance(ours, Llama)
    with torch.inference_mode():
        difference = ours(ids(3, 40)) - theirs(ids(3, 40)).logits
    assert difference.abs().max() <= 1e-5
    assert {n for n, _ in ours.named_parameters()} == {n for n, _ in theirs.named_parameters()}
    assert theirs.config.rope_parameters["rope_theta"] == 5000.0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_agrees_with_transformers_to_its_rounding(
    make_folder: MakeFolder, dtype: str
) -> None:
    import transformers

    folder = make_folder(dtype=dtype)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ours = load_model(folder, device="cpu").module
    assert next(ours.parameters()).dtype == theirs.dtype == getattr(torch, dtype)
    with torch.inference_mode():
        a, b = ours(ids()).float(), theirs(ids()).logits.float()
    assert (a - b).abs().max() <= 2 * torch.finfo(theirs.dtype).eps * b.abs().max()


def test_rotation_by_hand() -> None:
    # Position 1, size 4, theta 100: the angles of the pairs (0, 2) and (1, 3) are 1 and 1/10.
    shape = LlamaConfig(4, 4, 4, 1, 1, rope_theta=100.0)
    cosine, sine = rotations(shape, 1, 2, like=torch.zeros(1))
    turned = rotate(torch.tensor([[1.0, 0.0, 0.0, 2.0]]), cosine, sine)
    angles = torch.tensor([1.0, 0.1])
    wanted = [angles[0].cos(), -2 * angles[1].sin(), angles[0].sin(), 2 * angles[1].cos()]
    assert torch.allclose(turned, torch.stack(wanted)[None])


@pytest.mark.parametrize("pieces", [(9,), (1, 8), (4, 5), (3, 1, 5), (1,) * 9])
def test_reading_in_pieces_gives_the_same_logits(pieces: tuple[int, ...]) -> None:
    model, cache = small(), small().cache(rows=2, length=9)
    parts = [model(part, cache=cache) for part in ids().split(pieces, dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), model(ids()), atol=1e-6)


def test_no_token_sees_a_later_one() -> None:
    changed = ids().clone()
    changed[:, 5:] = 0
    assert torch.equal(small()(changed)[:, :5], small()(ids())[:, :5])


def test_attention_over_a_cache_is_the_end_of_the_whole() -> None:
    query, key, value = torch.randn(3, 1, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    whole = causal_attention(query, key, value)
    assert torch.allclose(causal_attention(query[:, :, 4:], key, value), whole[:, :, 4:])


def test_only_the_last_logits_on_request() -> None:
    assert torch.allclose(small()(ids(), keep=3), small()(ids())[:, -3:], atol=1e-6)


def test_it_learns() -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    losses = []
    for _ in range(5):
        loss = functional.cross_entropy(model(ids())[:, :-1].flatten(0, 1), ids()[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_making_a_model_touches_no_global_random_state() -> None:
    before = torch.get_rng_state()
    first, second = small(seed=1), small(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)


def test_a_config_survives_the_round_trip() -> None:
    assert LlamaConfig.from_json(SMALL.to_json()) == SMALL


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "qwen2"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_type"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "rope_type"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"torch_dtype": "float8_e4m3fn"}, "dtype"),
    ],
)
def test_what_is_no_plain_llama_is_said(change: dict[str, Any], word: str) -> None:
    assert any(word in problem for problem in obstacles(SMALL.to_json() | change))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_size": -4}, "hidden_size"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "3 key-value heads"),
        ({"head_dim": None, "hidden_size": 18}, "18"),
        ({"head_dim": 3}, "3"),
        ({"rope_theta": "big"}, "rope_theta"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
    ],
)
def test_a_senseless_config_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(CheckpointError, match=word):
        LlamaConfig.from_json(SMALL.to_json() | change)
