"""A merge as one adapter: exact by concatenation, or cut to a rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import UsageError
from evomerge.merging.factoring import Factored, factored, relative_error, weights_of
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan
from evomerge.merging.registry import method_named

Store, Adapt, Open = Callable[..., Checkpoint], Callable[..., Path], Callable[[Path], Adapter]
BASE = {
    "emb.weight": torch.zeros(4, 3),
    "q.weight": torch.zeros(5, 3),
    "v.weight": torch.zeros(6, 7),
    "norm.weight": torch.zeros(3),
}


@pytest.fixture
def opened() -> Iterator[Open]:
    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(Adapter.open(folder))


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair(module: str, rows: int, columns: int, seed: int, rank: int = 2) -> dict[str, Tensor]:
    return {
        f"{module}.lora_A.weight": random(rank, columns, seed=seed),
        f"{module}.lora_B.weight": random(rows, rank, seed=seed + 1),
    }


def product(part: Factored) -> Tensor:
    found = part.factors.up.double() @ part.factors.down.double()
    return found.T if part.factors.embedding else found


def parts_of(
    merger: Merger, weights: tuple[float, ...], rank: int | None, density: float = 1.0
) -> dict[str, Factored]:
    settings = {"weight": weights, "density": (density,) * len(weights)}
    plan = MergePlan("sparse_signed", tuple(merger.models), dict.fromkeys(BASE, settings))
    return {part.factors.module: part for part in factored(merger, plan, rank)}


def test_a_sum_of_adapters_is_exact_with_added_ranks(
    store: Store, adapt: Adapt, opened: Open
) -> None:
    embedding = {
        "emb.lora_embedding_A": random(2, 4, seed=7),
        "emb.lora_embedding_B": random(3, 2, seed=8),
    }
    one = opened(adapt({**pair("q", 5, 3, 0), **embedding}))
    other = opened(adapt(pair("q", 5, 3, 2, rank=1), r=1, lora_alpha=3))
    merger = Merger(store(BASE), {"a": one, "b": other})
    parts = parts_of(merger, (0.5, -2.0), None)
    assert {name: part.factors.down.shape[0] for name, part in parts.items()} == {"emb": 2, "q": 3}
    assert relative_error(list(parts.values())) == 0.0
    settings = {"weight": (0.5, -2.0), "scaling": 1.0}
    for module, part in parts.items():
        expected = merger.tensor(f"{module}.weight", settings, "task_arithmetic")
        torch.testing.assert_close(product(part).float(), expected, rtol=1e-6, atol=1e-6)


def test_the_cut_is_the_nearest_and_tells_its_error(
    store: Store, adapt: Adapt, opened: Open
) -> None:
    """Two orthogonal ranks of lengths 3 and 4: the shorter one is lost, 3 / 5 of the whole."""
    up, down = torch.zeros(6, 2), torch.zeros(2, 7)
    up[0, 0] = up[1, 1] = down[0, 0] = down[1, 1] = 1.0
    a = {"v.lora_A.weight": down, "v.lora_B.weight": up * torch.tensor([1.5, 2.0])}
    merger = Merger(store(BASE), {"a": opened(adapt(a))})
    parts = parts_of(merger, (1.0,), 1)
    expected = torch.zeros(6, 7, dtype=torch.float64)
    expected[1, 1] = 4.0
    torch.testing.assert_close(product(parts["v"]), expected)
    assert relative_error(list(parts.values())) == pytest.approx(0.6)
    assert relative_error(list(parts_of(merger, (1.0,), 2).values())) == 0.0


def test_what_a_narrow_dtype_loses_is_counted(store: Store, adapt: Adapt, opened: Open) -> None:
    merger = Merger(store(BASE), {"a": opened(adapt(pair("v", 6, 7, 4)))})
    settings = {"weight": (1.0,), "scaling": 1.0}
    plan = MergePlan("task_arithmetic", ("a",), {"v.weight": settings})
    (part,) = factored(merger, plan, None, torch.bfloat16)
    exact = merger.tensor("v.weight", settings, "task_arithmetic").double()
    lost = (exact - product(part)).norm() / exact.norm()
    assert relative_error([part]) == pytest.approx(float(lost), rel=1e-3)
    assert 1e-4 < lost < 1e-2


def test_a_masked_merge_is_cut_from_its_dense_form(
    store: Store, adapt: Adapt, opened: Open
) -> None:
    adapter = opened(adapt({**pair("v", 6, 7, 4), **pair("q", 5, 3, 0)}))
    merger = Merger(store(BASE), {"a": adapter})
    with pytest.raises(UsageError, match="no sum of adapters at"):
        parts_of(merger, (1.0,), None, density=0.5)
    parts = parts_of(merger, (1.0,), 3, density=0.5)
    settings = {"weight": (1.0,), "density": (0.5,)}
    lost = squares = 0.0
    for module, part in parts.items():
        dense = merger.tensor(f"{module}.weight", settings, "sparse_signed").double()
        values = torch.linalg.svdvals(dense)
        lost += float(values[3:].square().sum())
        squares += float(values.square().sum())
        assert part.lost == pytest.approx(float(values[3:].square().sum()), rel=1e-4, abs=1e-9)
    assert relative_error(list(parts.values())) == pytest.approx(
        math.sqrt(lost / squares), rel=1e-4
    )


def test_dora_and_full_models_are_cut_and_vectors_refused(
    store: Store, adapt: Adapt, opened: Open
) -> None:
    base = store({**BASE, "q.weight": random(5, 3, seed=1)})
    dora = {**pair("q", 5, 3, 0), "q.lora_magnitude_vector": torch.ones(5)}
    merger = Merger(base, {"a": opened(adapt(dora, use_dora=True))})
    with pytest.raises(UsageError, match="no sum of adapters"):
        parts_of(merger, (1.0,), None)
    assert parts_of(merger, (1.0,), 3)["q"].lost == pytest.approx(0.0, abs=1e-6)
    full = Merger(base, {"a": store({**BASE, "norm.weight": torch.ones(3)})})
    with pytest.raises(UsageError, match="which no LoRA adapter can"):
        parts_of(full, (1.0,), 3)


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("sparse_signed", {"weight": (0.5, -1.0), "density": (1.0, 1.0)}, {0: 0.5, 1: -1.0}),
        ("sparse_signed", {"weight": (0.5, 0.0), "density": (1.0, 0.5)}, {0: 0.5}),
        ("sparse_signed", {"weight": (0.5, 1.0), "density": (1.0, 0.5)}, None),
        ("task_arithmetic", {"weight": (1.0, 3.0), "scaling": 0.5}, {0: 0.5, 1: 1.5}),
        ("linear", {"weight": (1.0, 3.0)}, {0: 0.25, 1: 0.75}),
        ("ties", {"weight": (1.0, 1.0), "density": (1.0, 1.0), "scaling": 1.0}, None),
        (
            "lines:task_arithmetic",
            {
                "weight": (1.0, 3.0),
                "scaling": 0.5,
                "shallow_scaling": 0.0,
                "deep_scaling": 1.0,
                "depth": 0.5,
            },
            {0: 0.25, 1: 0.75},
        ),
    ],
)
def test_which_methods_add_whole_task_vectors(
    method: str, settings: dict[str, float | tuple[float, ...]], expected: dict[int, float] | None
) -> None:
    assert weights_of(method_named(method), settings) == expected
