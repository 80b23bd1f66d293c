"""LiNeS over other methods: the scale by depth, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.merger import Merger
from evomerge.merging.registry import METHODS, method_named

Store = Callable[..., Checkpoint]


def merge(store: Store, method: str, **settings: float | tuple[float, ...]) -> list[float]:
    """Task vectors (4, 0, -2) and (0, 8, 2), over a base of ones."""
    base = torch.ones(3)
    vectors = ([4.0, 0.0, -2.0], [0.0, 8.0, 2.0])
    models = {f"m{i}": store({"t": base + torch.tensor(v)}) for i, v in enumerate(vectors)}
    found: list[float] = Merger(store({"t": base}), models).tensor("t", settings, method).tolist()
    return found


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(0.0, [2.0, 3.0, 1.0]), (0.5, [3.0, 5.0, 1.0]), (1.0, [4.0, 7.0, 1.0])],
)
def test_the_factor_rises_with_the_depth(store: Store, depth: float, expected: list[float]) -> None:
    """alpha = 1/4, alpha + beta = 3/4: a quarter, a half, three quarters of the sum (4, 8, 0)."""
    ends = {"shallow_scaling": 0.25, "deep_scaling": 0.75, "depth": depth}
    found = merge(store, "lines:sparse_signed", weight=(1.0, 1.0), density=(1.0, 1.0), **ends)
    assert found == expected


def test_it_scales_what_normalising_methods_add_too(store: Store) -> None:
    """The average of the models lies (2, 4, 0) from the base; weights cannot shorten that."""
    ends = {"shallow_scaling": 0.5, "deep_scaling": 0.5, "depth": 1.0}
    assert merge(store, "lines:linear", weight=(1.0, 1.0), **ends) == [2.0, 3.0, 1.0]


def test_a_factor_of_nothing_is_the_base(store: Store) -> None:
    ends = {"shallow_scaling": 0.0, "deep_scaling": 1.0, "depth": 0.0}
    assert merge(store, "lines:linear", weight=(1.0, 1.0), **ends) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", METHODS.own)
def test_both_ends_at_one_are_the_method_itself(name: str) -> None:
    wrapped, inner = method_named(f"lines:{name}"), method_named(name)
    assert wrapped.name == f"lines:{name}"
    assert wrapped.traits == inner.traits
    assert [f.name for f in wrapped.fields if f not in inner.fields] == [
        "shallow_scaling",
        "deep_scaling",
        "depth",
    ]
