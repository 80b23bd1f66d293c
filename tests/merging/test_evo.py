"""Evo-Merging on the factors of adapters, in its two spaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import UsageError
from evomerge.merging import entries
from evomerge.merging.evo import EVO_MERGING, EVO_MERGING_DELTA, thin
from evomerge.merging.factoring import factored
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan

Store, Adapt, Open = Callable[..., Checkpoint], Callable[..., Path], Callable[[Path], Adapter]
BASE = {
    "q.weight": torch.zeros(5, 3),
    "emb.weight": torch.zeros(4, 3),
    "v.weight": torch.linspace(-1, 1, 9).view(3, 3),
}


@pytest.fixture
def opened() -> Iterator[Open]:
    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(Adapter.open(folder))


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def factors(seed: int, rank: int = 2) -> dict[str, Tensor]:
    return {
        "q.lora_A.weight": random(rank, 3, seed=seed),
        "q.lora_B.weight": random(5, rank, seed=seed + 1),
        "emb.lora_embedding_A": random(rank, 4, seed=seed + 2),
        "emb.lora_embedding_B": random(3, rank, seed=seed + 3),
    }


@pytest.fixture
def trio(store: Store, adapt: Adapt, opened: Open) -> Merger:
    """Three adapters of rank 2 and scale 2."""
    return Merger(store(BASE), {f"m{i}": opened(adapt(factors(10 * i))) for i in range(3)})


def merged(
    merger: Merger, method: str, weights: Sequence[float], densities: Sequence[float] | None = None
) -> Tensor:
    kept = densities or [1.0] * len(weights)
    return merger.tensor("q.weight", {"weight": tuple(weights), "density": tuple(kept)}, method)


def released(weights: Sequence[float], densities: Sequence[float]) -> Tensor:
    """The release's rule, written down plainly."""
    ups, downs = torch.zeros(5, 2), torch.zeros(2, 3)
    for i, (weight, density) in enumerate(zip(weights, densities, strict=True)):
        tensors = factors(10 * i)
        down, kept = tensors["q.lora_A.weight"].clone(), min(max(round(density * 6), 1), 6)
        least = down.abs().flatten().sort(descending=True).values[kept - 1]
        down[down.abs() < least] = 0
        ups += weight * tensors["q.lora_B.weight"]
        downs += weight * down
    return 2.0 * ups @ downs


def test_factor_space_is_the_release(trio: Merger) -> None:
    weights, densities = (0.5, -1.0, 0.25), (1.0, 0.5, 0.34)
    found = merged(trio, "evo_merging", weights, densities)
    torch.testing.assert_close(found, released(weights, densities))


def test_delta_space_adds_up_task_vectors_of_thinned_factors(trio: Merger) -> None:
    weights = (0.5, -1.0, 0.25)
    settings = {"weight": weights, "scaling": 1.0}
    whole = trio.tensor("q.weight", settings, "task_arithmetic")
    torch.testing.assert_close(merged(trio, "evo_merging_delta", weights), whole)
    alone = merged(trio, "evo_merging_delta", (0.0, -1.0, 0.0), (1.0, 0.5, 1.0))
    both = released((0.0, 1.0, 0.0), (1.0, 0.5, 1.0))
    torch.testing.assert_close(alone, -both)


@given(
    weights=st.lists(st.floats(-1.5, 1.5, width=32), min_size=3, max_size=3),
    densities=st.lists(st.floats(0.0625, 1.0, width=32), min_size=3, max_size=3),
)
def test_in_factor_space_weights_of_the_other_sign_are_the_same_merge(
    trio: Merger, weights: list[float], densities: list[float]
) -> None:
    one = merged(trio, "evo_merging", weights, densities)
    other = merged(trio, "evo_merging", [-weight for weight in weights], densities)
    assert torch.equal(one, other)
    delta = merged(trio, "evo_merging_delta", weights, densities)
    opposite = merged(trio, "evo_merging_delta", [-weight for weight in weights], densities)
    assert torch.equal(delta, -opposite)


@pytest.mark.parametrize("method", ["evo_merging", "evo_merging_delta"])
def test_one_alone_is_itself_none_is_the_base_and_chunks_do_not_show(
    trio: Merger, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = trio.tensor("q.weight", {"weight": (0.0, 1.0, 0.0), "scaling": 1.0}, "task_arithmetic")
    torch.testing.assert_close(merged(trio, method, (0.0, 1.0, 0.0)), alone)
    assert torch.equal(merged(trio, method, (0.0, 0.0, 0.0)), BASE["q.weight"])
    settings = {"weight": (0.5, -0.7, 1.0), "density": (0.5, 1.0, 0.3)}
    whole = {name: trio.tensor(name, settings, method) for name in BASE}
    monkeypatch.setattr(entries, "CHUNK", 2)
    for name, expected in whole.items():
        assert torch.equal(trio.tensor(name, settings, method), expected)
    assert torch.equal(whole["v.weight"], BASE["v.weight"])


@pytest.mark.parametrize(("method", "rank"), [("evo_merging", 2), ("evo_merging_delta", 6)])
def test_it_is_exactly_one_adapter(trio: Merger, method: str, rank: int) -> None:
    settings = {"weight": (0.5, -0.7, 1.0), "density": (0.5, 1.0, 0.3)}
    plan = MergePlan(method, tuple(trio.models), dict.fromkeys(BASE, settings))
    parts = {part.factors.module: part for part in factored(trio, plan, None)}
    assert {part.factors.down.shape[0] for part in parts.values()} == {rank}
    made = parts["q"].factors.up @ parts["q"].factors.down
    torch.testing.assert_close(made, trio.tensor("q.weight", settings, method))
    turned = (parts["emb"].factors.up @ parts["emb"].factors.down).T
    torch.testing.assert_close(turned, trio.tensor("emb.weight", settings, method))


def test_ranks_that_differ_and_whole_models_are_refused(
    store: Store, adapt: Adapt, opened: Open
) -> None:
    base, one = store(BASE), opened(adapt(factors(0)))
    other = opened(adapt(factors(10, rank=1), r=1))
    mixed = Merger(base, {"a": one, "b": other})
    with pytest.raises(UsageError, match=r"'q.weight': factor space needs .*rank 1 and scale 4, "):
        merged(mixed, "evo_merging", (1.0, 1.0))
    assert merged(mixed, "evo_merging_delta", (1.0, 1.0)).shape == (5, 3)
    with pytest.raises(UsageError, match="'b' is a whole model"):
        merged(Merger(base, {"a": one, "b": store(BASE)}), "evo_merging", (1.0, 1.0))
    norm = opened(adapt({**factors(0), "v.weight": torch.ones(3, 3)}))
    with pytest.raises(UsageError, match="by more or by other than factors"):
        merged(Merger(base, {"a": one, "b": norm}), "evo_merging", (1.0, 1.0))


def test_thinning_keeps_ties_and_at_least_one_entry() -> None:
    assert thin(torch.tensor([[3.0, -2.0], [2.0, 1.0]]), 0.5).tolist() == [[3.0, -2.0], [2.0, 0.0]]
    assert thin(torch.tensor([[3.0, -2.0]]), 0.01).tolist() == [[3.0, 0.0]]
    assert not thin(torch.ones(2, 2), 0.0).any()
    assert thin(torch.zeros(2, 0), 0.5).shape == (2, 0)


def test_what_counts() -> None:
    numbers = {"weight": (0.0, 1.0, 1.0), "density": (1.0, 0.0, 0.5)}
    assert EVO_MERGING.used(numbers) == (1, 2)  # its B still meets the other's A
    assert EVO_MERGING_DELTA.used(numbers) == (2,)
