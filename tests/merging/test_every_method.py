"""What holds for every merge method there is, whatever its formula."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import UsageError
from evomerge.merging import entries
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
from evomerge.merging.method import MergeMethod, Settings
from evomerge.merging.plan import MergePlan
from evomerge.merging.registry import METHODS, method_named

Store = Callable[..., Checkpoint]
OF_TASK_VECTORS = [n for n in METHODS.own if not method_named(n).traits.adapters]
ALL = [*OF_TASK_VECTORS, "lines:sparse_signed", "lines:ties", "lines:slerp"]
SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (7, 5),
    "column": (6, 1),
    "row": (1, 9),
    "vector": (11,),
    "cube": (2, 3, 3),
    "number": (),
    "none": (0,),
    "no_rows": (0, 4),
    "no_columns": (4, 0),
}


def count_of(method: MergeMethod) -> int:
    """Models to test with: three, or as many as the method takes."""
    return 3 if method.traits.most is None else method.traits.most


def numbers(method: MergeMethod, models: int) -> Settings:
    """Settings inside all ranges that differ between the models."""
    found: dict[str, float | tuple[float, ...]] = {}
    for field in method.fields:
        inner = field.low + 0.4 * (field.high - field.low)
        steps = [inner + i * 0.15 * (field.high - field.low) for i in range(models)]
        found[field.name] = inner if field.per == "group" else tuple(steps)
    return found


def family(models: int, dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    """A base and models near it, in every shape."""
    generator = torch.Generator().manual_seed(3)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return [
        {
            name: (tensor + step * torch.randn(tensor.shape, generator=generator)).to(dtype)
            for name, tensor in base.items()
        }
        for step in [0.0, *[0.1] * models]
    ]


def opened(store: Store, members: list[dict[str, Tensor]]) -> Merger:
    base, *models = [store(member) for member in members]
    return Merger(base, {f"m{i}": model for i, model in enumerate(models)})


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def holder(tensors: dict[str, Tensor]) -> nn.Module:
    """A module with parameters of these names."""
    module = nn.Module()
    for name, tensor in tensors.items():
        module.register_parameter(name, nn.Parameter(torch.full_like(tensor, 7.0)))
    return module


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_disk_live_and_single_tensors_agree_bit_for_bit_however_the_work_is_cut(
    store: Store, tmp_path: Path, name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = method_named(name)
    members = family(count_of(method), dtype)
    merger = opened(store, members)
    settings = numbers(method, len(members) - 1)
    plan = MergePlan(name, tuple(merger.models), dict.fromkeys(members[0], settings))
    whole = {tensor: merger.tensor(tensor, settings, name) for tensor in SHAPES}
    assert {tensor: tuple(found.shape) for tensor, found in whole.items()} == SHAPES
    assert all(bool(found.isfinite().all()) for found in whole.values())
    assert any(bits(whole[tensor]) != bits(members[0][tensor]) for tensor in SHAPES)
    monkeypatch.setattr(entries, "CHUNK", 4)
    torch.set_num_threads(3)
    (tmp_path / "out").mkdir()
    merger.write(plan, tmp_path / "out", shard_size=100)
    module = holder(members[0])
    LiveMerge(merger, module).apply(plan)
    written = {
        n: t for s in (tmp_path / "out").glob("*.safetensors") for n, t in load_file(s).items()
    }
    for tensor, expected in whole.items():
        assert bits(written[tensor]) == bits(expected), tensor
        assert bits(module.state_dict()[tensor]) == bits(expected), tensor


@pytest.mark.parametrize("name", [n for n in ALL if method_named(n).traits.parents])
def test_weights_of_zero_give_the_base_and_one_alone_its_model(store: Store, name: str) -> None:
    method = method_named(name)
    count = count_of(method)
    members = family(count)
    merger = opened(store, members)
    whole = {"density": 1.0, "scaling": 1.0}
    for chosen in range(count + 1):
        weights = tuple(float(i + 1 == chosen) for i in range(count))
        settings: dict[str, float | tuple[float, ...]] = {}
        for field in method.fields:
            value = whole.get(field.role, field.default)
            settings[field.name] = value if field.per == "group" else (value,) * count
            if field.role == "weight":
                settings[field.name] = weights
        for tensor in SHAPES:
            found = merger.tensor(tensor, settings, name)
            if chosen == 0:
                assert bits(found) == bits(members[0][tensor])
            else:
                torch.testing.assert_close(found, members[chosen][tensor], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in ALL if n != "weighted_sum"])  # 2 θ is not θ
def test_equal_models_give_finite_numbers(store: Store, name: str) -> None:
    """Task vectors of nothing but 0: no norm, no rank, no angle."""
    method = method_named(name)
    members = family(count_of(method))
    merger = opened(store, [members[0]] * len(members))
    for tensor in SHAPES:
        found = merger.tensor(tensor, numbers(method, len(members) - 1), name)
        torch.testing.assert_close(found, members[0][tensor], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in ALL if method_named(n).traits.most is not None])
def test_a_wrong_count_of_models_is_refused(store: Store, name: str) -> None:
    members = family(3)
    merger = opened(store, members)
    with pytest.raises(UsageError, match="takes exactly"):
        merger.tensor("vector", numbers(method_named(name), 3), name)
