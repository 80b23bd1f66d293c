"""Which checkpoints can be merged, and what is said of those that cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import CheckpointError
from evomerge.merging.compatibility import problems, scan_non_finite
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan

Store = Callable[..., Checkpoint]
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
GOOD = {EMBED: torch.zeros(4, 2), "model.norm.weight": torch.ones(2)}


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({EMBED: torch.zeros(4, 2)}, "model 'm' lacks 'model.norm.weight'"),
        (GOOD | {"v_head": torch.zeros(1)}, "tensors that the base has not: 'v_head'"),
        (
            GOOD | {"model.norm.weight": torch.ones(3)},
            "'model.norm.weight' has the shape [2] in the base and [3] in model 'm'",
        ),
        (GOOD | {EMBED: torch.zeros(5, 2)}, "[5, 2] in model 'm': their vocabularies differ"),
        (GOOD | {EMBED: torch.zeros(4, 2).to(torch.int8)}, f"not merged: '{EMBED}' is I8"),
        (GOOD | {HEAD: torch.ones(4, 2)}, f"tensors that the base has not: '{HEAD}'"),
    ],
)
def test_what_does_not_fit_is_an_error(store: Store, model: dict[str, Tensor], text: str) -> None:
    base, other = store(GOOD), store(model)
    [problem] = problems(base, {"m": other})
    assert problem.severity == "error"
    assert text in problem.text
    with pytest.raises(CheckpointError) as caught:
        Merger(base, {"m": other})
    assert text in str(caught.value)


def test_all_problems_are_found_at_once(store: Store) -> None:
    base = store(GOOD)
    bad = store({EMBED: torch.zeros(1, 1), "extra": torch.zeros(1)})
    assert len(problems(base, {"first": bad, "second": bad})) == 6


def test_a_head_that_only_the_base_has_is_explained(store: Store) -> None:
    found = problems(store(GOOD | {HEAD: torch.ones(4, 2)}), {"m": store(GOOD)})
    assert "ties 'lm_head.weight' to its embeddings and the base does not" in found[0].text


def test_a_head_that_is_a_copy_of_the_embeddings_is_left_out(store: Store) -> None:
    base, model = store(GOOD), store(GOOD | {HEAD: GOOD[EMBED].clone()})
    [problem] = problems(base, {"m": model})
    assert problem.severity == "warning"
    assert "copy of its embeddings" in problem.text
    Merger(base, {"m": model})


def test_float_dtypes_may_differ_and_other_numbers_may_be_anything(store: Store) -> None:
    whole = {"steps": torch.tensor([3])}
    inverse = {"layers.0.rotary_emb.inv_freq": torch.ones(2)}
    model = {name: tensor.double() for name, tensor in GOOD.items()}
    assert problems(store(GOOD | whole | inverse), {"m": store(model)}) == []
    assert problems(store(GOOD), {"m": store(model | whole | inverse)}) == []


def test_a_base_without_floats_or_with_8_bit_floats_is_refused(store: Store) -> None:
    assert "no tensor that can be merged" in problems(store({"a": torch.ones(2).int()}), {})[0].text
    eight = {"a": torch.ones(2), "b": torch.ones(2).to(torch.float8_e4m3fn)}
    assert "8-bit floats" in problems(store(eight), {})[0].text


def test_numbers_that_are_not_finite_are_counted(store: Store) -> None:
    bad = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf])
    stored = store({"good": torch.ones(3), "bad": bad.bfloat16(), "whole": torch.tensor([1])})
    assert scan_non_finite(stored) == {"bad": 3}


def test_a_plan_of_unknown_tensors_is_refused(store: Store) -> None:
    merger = Merger(store(GOOD), {"m": store(GOOD)})
    settings = {"weight": (1.0,), "density": (1.0,)}
    with pytest.raises(CheckpointError, match="there is no tensor 'z'"):
        merger.check(MergePlan("sparse_signed", ("m",), {"z": settings}))
