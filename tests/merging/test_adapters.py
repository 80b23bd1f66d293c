"""Merging adapters: alone, with full checkpoints, in chunks, live."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.models import Model
from evomerge.errors import CheckpointError
from evomerge.merging import entries, index
from evomerge.merging.bound_adapter import BoundAdapter, FactorCache
from evomerge.merging.entries import Inputs
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger, method_named
from evomerge.merging.method import Settings
from evomerge.merging.plan import MergePlan
from evomerge.merging.registry import METHODS
from evomerge.merging.scratch import Scratch
from evomerge.merging.tally import magnitude_tables, product_tables

Store, Adapt = Callable[..., Checkpoint], Callable[..., Path]
SUM = {"weight": (1.0,), "scaling": 1.0}
BASE = {
    "emb.weight": torch.linspace(-1, 1, 12).view(4, 3),
    "q.weight": torch.linspace(-2, 1, 15).view(5, 3),
    "q.bias": torch.linspace(0, 1, 5),
    "v.weight": torch.linspace(1, 2, 9).view(3, 3),
    "norm.weight": torch.ones(3),
}


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Adapter]]:
    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(Adapter.open(folder))


Opened = Callable[[Path], Adapter]


def random(*shape: int, seed: int = 0, scale: float = 0.1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def factors(seed: int = 0) -> dict[str, Tensor]:
    """Of q and of the embeddings."""
    return {
        "q.lora_A.weight": random(2, 3, seed=seed),
        "q.lora_B.weight": random(5, 2, seed=seed + 1),
        "emb.lora_embedding_A": random(2, 4, seed=seed + 2),
        "emb.lora_embedding_B": random(3, 2, seed=seed + 3),
    }


def merged(merger: Merger, name: str, settings: Settings = SUM) -> Tensor:
    return merger.tensor(name, settings, "task_arithmetic")


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def test_an_adapter_adds_the_scaled_product_of_its_factors(
    store: Store, adapt: Adapt, opened: Opened
) -> None:
    tensors = {**factors(), "q.lora_B.bias": random(5), "norm.weight": random(3, seed=9)}
    merger = Merger(store(BASE), {"a": opened(adapt(tensors))})
    q = 2.0 * tensors["q.lora_B.weight"] @ tensors["q.lora_A.weight"]
    emb = 2.0 * (tensors["emb.lora_embedding_B"] @ tensors["emb.lora_embedding_A"]).T
    torch.testing.assert_close(merged(merger, "q.weight"), BASE["q.weight"] + q)
    torch.testing.assert_close(merged(merger, "emb.weight"), BASE["emb.weight"] + emb)
    torch.testing.assert_close(merged(merger, "q.bias"), BASE["q.bias"] + 2.0 * random(5))
    torch.testing.assert_close(merged(merger, "norm.weight"), random(3, seed=9))


def test_a_small_change_of_a_large_weight_is_not_rounded_to_it(
    store: Store, adapt: Adapt, opened: Opened
) -> None:
    """base + change - base would lose it; the factor of 2**20 brings it back."""
    tensors = {n: t * 1e-5 for n, t in factors().items() if n.startswith("q")}
    base = {**BASE, "q.weight": BASE["q.weight"] * 100}
    merger = Merger(store(base), {"a": opened(adapt(tensors))})
    grown = merged(merger, "q.weight", {"weight": (2.0**30,), "scaling": 1.0})
    expected = 2.0 * tensors["q.lora_B.weight"] @ tensors["q.lora_A.weight"] * 2.0**30
    torch.testing.assert_close(grown - base["q.weight"], expected, rtol=1e-3, atol=1e-4)


def test_tensors_that_no_model_changes_are_the_bytes_of_the_base(
    store: Store, adapt: Adapt, opened: Opened
) -> None:
    base = {**BASE, "v.weight": torch.full((3, 3), -0.0), "q.weight": torch.full((5, 3), -0.0)}
    merger = Merger(store(base), {"a": opened(adapt(factors()))})
    assert bits(merged(merger, "v.weight")) == bits(base["v.weight"])
    none = {"weight": (0.0,), "scaling": 1.0}
    assert bits(merged(merger, "q.weight", none)) == bits(base["q.weight"])


def test_dora_gives_its_effective_weights(store: Store, adapt: Adapt, opened: Opened) -> None:
    tensors = {
        "q.lora_A.weight": random(2, 3),
        "q.lora_B.weight": random(5, 2, seed=1),
        "q.lora_magnitude_vector": torch.linspace(1, 2, 5),
    }
    merger = Merger(store(BASE), {"a": opened(adapt(tensors, use_dora=True))})
    moved = BASE["q.weight"] + 2.0 * tensors["q.lora_B.weight"] @ tensors["q.lora_A.weight"]
    expected = torch.linspace(1, 2, 5)[:, None] * moved / moved.norm(dim=1, keepdim=True)
    torch.testing.assert_close(merged(merger, "q.weight"), expected)


def test_norms_of_rows_wider_than_a_block_are_whole(
    store: Store, adapt: Adapt, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {**factors(), "q.lora_magnitude_vector": torch.ones(5)}
    tensors["emb.lora_magnitude_vector"] = torch.ones(3)
    base, folder = store(BASE), adapt(tensors, use_dora=True)
    found = [
        merged(Merger(base, {"a": opened(folder)}), name) for name in ("q.weight", "emb.weight")
    ]
    monkeypatch.setattr("evomerge.merging.bound_adapter.BLOCK", 2)
    again = [
        merged(Merger(base, {"a": opened(folder)}), name) for name in ("q.weight", "emb.weight")
    ]
    for one, other in zip(found, again, strict=True):
        torch.testing.assert_close(one, other)
    assert found[1].norm(dim=0).tolist() == pytest.approx([1.0] * 3)


def test_rows_are_what_a_server_adds(store: Store, adapt: Adapt, opened: Opened) -> None:
    tensors = factors()
    bound = BoundAdapter(store(BASE), opened(adapt(tensors)), FactorCache(0))
    change = 2.0 * tensors["q.lora_B.weight"] @ tensors["q.lora_A.weight"]
    torch.testing.assert_close(bound.rows("q.weight", 1, 4), change[1:4])
    assert not bound.rows("v.weight", 0, 3).any()


def family(
    store: Store, adapt: Adapt, opened: Opened, name: str
) -> tuple[Checkpoint, dict[str, Model], Settings]:
    """A base, as many models as the method takes, adapters and a checkpoint, and settings."""
    method = method_named(name)
    models: list[Model] = [
        opened(adapt(factors(0))),
        store({n: t + random(*t.shape, seed=30) for n, t in BASE.items()}),
        opened(adapt(factors(10))),
    ]
    count = method.traits.most or 3
    settings: dict[str, float | tuple[float, ...]] = {
        f.name: 0.5 * (f.low + f.high) if f.per == "group" else (0.6 * f.high,) * count
        for f in method.fields
    }
    return store(BASE), dict(zip("abc", models[:count], strict=False)), settings


@pytest.mark.parametrize("name", [n for n in METHODS.own if not method_named(n).traits.adapters])
def test_every_method_merges_adapters_and_checkpoints_with_the_same_bits_however_cut(
    store: Store,
    adapt: Adapt,
    opened: Opened,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, models, settings = family(store, adapt, opened, name)
    merger = Merger(base, models)
    plan = MergePlan(name, tuple(models), dict.fromkeys(BASE, settings))
    whole = {tensor: merger.tensor(tensor, settings, name) for tensor in BASE}
    assert any(bits(whole[tensor]) != bits(BASE[tensor]) for tensor in BASE)
    monkeypatch.setattr(entries, "CHUNK", 4)
    torch.set_num_threads(3)
    (tmp_path / "out").mkdir()
    merger.write(plan, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    module = holder()
    LiveMerge(merger, module).apply(plan)
    for tensor, expected in whole.items():
        assert bool(expected.isfinite().all())
        assert bits(written[tensor]) == bits(expected), tensor
        assert bits(module.state_dict()[tensor]) == bits(expected), tensor


def holder() -> nn.Module:
    """A module with the base's parameters."""
    module = nn.Module()
    for part, suffix in (name.split(".") for name in BASE):
        if part not in module._modules:
            module.add_module(part, nn.Module())
        empty = nn.Parameter(torch.zeros_like(BASE[f"{part}.{suffix}"]))
        module.get_submodule(part).register_parameter(suffix, empty)
    return module


SMOOTH = (
    "sparse_signed",
    "task_arithmetic",
    "linear",
    "slerp",
    "karcher",
    "model_stock",
    "transfer",
)


@pytest.mark.parametrize("name", SMOOTH)
def test_an_adapter_counts_as_the_checkpoint_that_it_makes(
    store: Store, adapt: Adapt, opened: Opened, name: str
) -> None:
    base, models, settings = family(store, adapt, opened, name)
    whole = {"density": (1.0,) * len(models)} if name == "sparse_signed" else {}
    alone = Merger(base, {"a": models["a"]})
    dense = store({tensor: merged(alone, tensor) for tensor in BASE})
    one, other = Merger(base, models), Merger(base, {**models, "a": dense})
    for tensor in BASE:
        found = [each.tensor(tensor, {**settings, **whole}, name) for each in (one, other)]
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_named(store: Store, adapt: Adapt, opened: Opened) -> None:
    strange = {
        "k.lora_A.weight": random(2, 3),
        "k.lora_B.weight": random(5, 2),
        "q.lora_A.weight": random(2, 4),
        "q.lora_B.weight": random(5, 2),
        "norm.weight": random(4),
    }
    adapter = opened(adapt(strange, target_modules=["k", "q"]))
    with pytest.raises(CheckpointError) as error:
        Merger(store(BASE), {"math": adapter})
    message = str(error.value)
    assert "adapter 'math' changes 'k.weight', which the base has not" in message
    assert "'q.weight' by [5, 4], which has the shape [5, 3] in the base" in message
    assert "'norm.weight' by [4]" in message


def test_a_first_word_that_the_checkpoint_drops_is_found(
    store: Store, adapt: Adapt, opened: Opened
) -> None:
    tensors = {f"transformer.{name}": tensor for name, tensor in factors().items()}
    bound = BoundAdapter(store(BASE), opened(adapt(tensors)), FactorCache(0))
    assert set(bound.changes) == {"q.weight", "emb.weight"}
    base = store({f"model.{name}": tensor for name, tensor in BASE.items()})
    bound = BoundAdapter(base, opened(adapt(factors())), FactorCache(0))
    assert set(bound.changes) == {"model.q.weight", "model.emb.weight"}


def test_a_head_stored_although_tied_cannot_be_adapted_apart(
    store: Store, adapt: Adapt, opened: Opened
) -> None:
    tensors = {"embed_tokens.weight": BASE["emb.weight"], "lm_head.weight": BASE["emb.weight"]}
    folder = adapt(
        {"lm_head.lora_A.weight": random(2, 3), "lm_head.lora_B.weight": random(4, 2)},
        target_modules=["lm_head"],
    )
    with pytest.raises(CheckpointError, match="stores its embeddings twice"):
        Merger(store(tensors, tie=True), {"a": opened(folder)})


def test_the_cache_of_factors_holds_the_last_ones(
    store: Store, adapt: Adapt, opened: Opened
) -> None:
    cache = FactorCache(140)  # of q: (5 + 3) * 2 * 4 bytes, twice; of emb: 112 bytes
    bound = BoundAdapter(store(BASE), opened(adapt(factors())), cache)
    first = bound.rows("q.weight", 0, 5)
    bound.rows("emb.weight", 0, 4)
    assert cache.get((id(bound), "q.weight", torch.float32)) is None
    assert cache.get((id(bound), "emb.weight", torch.float32)) is not None
    assert torch.equal(bound.rows("q.weight", 0, 5), first)


def test_magnitudes_are_counted_from_factors_alone_with_the_same_result(
    store: Store, adapt: Adapt, opened: Opened
) -> None:
    """Rows and columns that fill no tile, several stretches, a tensor that one leaves alone."""
    base = store({"q.weight": random(2100, 19, seed=1), "v.weight": random(3, 3)})
    parts = {"q.lora_A.weight": random(3, 19, seed=2), "q.lora_B.weight": random(2100, 3, seed=3)}
    folder = adapt(parts, r=3)
    adapter = BoundAdapter(base, opened(folder), FactorCache())
    for name in base.tensors:
        inputs = Inputs(name, base, [adapter])
        (made,) = product_tables(inputs, [0]).values()
        counted = magnitude_tables(inputs, [0], Scratch())[0]
        assert made.codes.tolist() == counted.codes.tolist()
        assert made.reached.tolist() == counted.reached.tolist()
        assert made.count == counted.count


def test_tables_of_adapters_outlive_the_process(
    store: Store, adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named by the digest of the factors, and by what the config makes of them."""
    monkeypatch.setattr(index, "WORTH_A_FILE", 1)
    cache, tables = tmp_path / "digests.json", tmp_path / "tables"
    base = store(BASE)
    plans = {
        "one": adapt(factors(), lora_alpha=8),
        "same": adapt(factors(), lora_alpha=8),
        "other": adapt(factors(), lora_alpha=4),
    }
    for folder in (base.path, *plans.values()):
        for shard in folder.glob("*.safetensors"):
            os.utime(shard, ns=(0, 10**18))
    made = {}
    for name, folder in plans.items():
        with Checkpoint.open(base.path) as again, Adapter.open(folder) as adapter:
            for own in (again, adapter.stored):
                own.digests(cache)
                own.recall(cache)
            merger = Merger(again, {"a": adapter}, index=tables)
            merged_q = merger.tensor(
                "q.weight", {"weight": (1.0,), "density": (0.4,)}, "sparse_signed"
            )
            made[name] = len([path for path in tables.rglob("*") if path.is_file()]), merged_q
    assert [count for count, _ in made.values()] == [1, 1, 2]
    assert torch.equal(made["one"][1], made["same"][1])
