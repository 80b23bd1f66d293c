"""Merging into a module that is in memory: what it takes, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import CheckpointError, UsageError
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan

Store = Callable[..., Checkpoint]


class Pair(nn.Module):
    """Two tensors and, perhaps, more."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))


def merger(store: Store, base: dict[str, Tensor], model: dict[str, Tensor]) -> Merger:
    return Merger(store(base), {"m": store(model)})


def plan(**weights: float) -> MergePlan:
    settings = {name: {"weight": (w,), "density": (1.0,)} for name, w in weights.items()}
    return MergePlan("sparse_signed", ("m",), settings)


def simple(store: Store) -> tuple[LiveMerge, Pair]:
    base = {"a": torch.zeros(3), "b": torch.zeros(2)}
    module = Pair(a=torch.full((3,), torch.nan), b=torch.full((2,), torch.nan))
    model = {"a": torch.ones(3), "b": torch.ones(2)}
    return LiveMerge(merger(store, base, model), module), module


def test_only_what_changed_is_computed(store: Store) -> None:
    live, module = simple(store)
    assert live.apply(plan(a=0.5, b=0.25)) == 2  # nothing is assumed of the module at first
    assert live.apply(plan(a=0.5, b=0.25)) == 0
    assert live.apply(plan(a=0.5, b=0.75)) == 1
    assert (module.a.tolist(), module.b.tolist()) == ([0.5] * 3, [0.75] * 2)
    assert live.apply(plan(b=0.75)) == 1  # a is the base's again
    assert module.a.tolist() == [0.0] * 3


def test_what_somebody_else_wrote_or_moved_is_computed_again(store: Store) -> None:
    live, module = simple(store)
    live.apply(plan(a=0.5, b=0.5))
    with torch.no_grad():
        module.a.mul_(3)
    assert live.apply(plan(a=0.5, b=0.5)) == 1
    module.to(torch.float64)
    assert live.apply(plan(a=0.5, b=0.5)) == 2
    assert (module.a.tolist(), module.b.tolist()) == ([0.5] * 3, [0.5] * 2)


def test_other_memory_at_the_same_address_is_written(store: Store) -> None:
    live, module = simple(store)
    memory = np.zeros(3, np.float32)
    module.a.data = torch.from_numpy(memory)
    live.apply(plan(a=0.5, b=0.5))
    memory[:] = 7.0
    module.a.data = torch.from_numpy(memory)
    assert live.apply(plan(a=0.5, b=0.5)) == 1
    assert module.a.tolist() == [0.5] * 3


def test_restoring_writes_what_is_not_the_base(store: Store) -> None:
    live, module = simple(store)
    live.apply(plan(a=0.0, b=1.0))
    assert live.restore() == 1
    assert (module.a.tolist(), module.b.tolist()) == ([0.0] * 3, [0.0] * 2)
    assert live.restore() == 0
    assert live.apply(plan()) == 0


def test_a_plan_that_fails_leaves_nothing_half_known(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, module = simple(store)
    live.apply(plan(a=0.5, b=0.5))
    with monkeypatch.context() as patch:
        patch.setattr("evomerge.merging.live._begin", broken)
        with pytest.raises(OSError, match="disk"):
            live.apply(plan(a=1.0, b=1.0))
    live.apply(plan(a=0.5, b=0.5))
    assert (module.a.tolist(), module.b.tolist()) == ([0.5] * 3, [0.5] * 2)


def broken(target: Tensor, source: object) -> None:
    target.detach().fill_(7.0)
    raise OSError("the disk is gone")


def test_values_are_rounded_to_the_dtype_of_the_export_first(store: Store) -> None:
    base, model = {"a": torch.tensor([1.0])}, {"a": torch.tensor([1.0 + 2**-10])}
    for dtype, expected in [(None, 1.0 + 2**-10), ("bfloat16", 1.0)]:
        module = Pair(a=torch.zeros(1, dtype=torch.float64))
        live = LiveMerge(merger(store, base, model), module, dtype=dtype)
        live.apply(plan(a=1.0))
        assert module.a.item() == expected
    live.apply(plan())  # an export of the base in bfloat16
    live.restore()  # the base itself
    assert module.a.item() == 1.0


def test_a_parameter_that_is_no_plain_memory_is_filled_too(store: Store) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    module = Pair(a=torch.zeros(3, 2).t())
    assert not module.a.is_contiguous()
    LiveMerge(merger(store, {"a": base}, {"a": base + 1}), module).apply(plan(a=1.0))
    assert torch.equal(module.a, base + 1)


def test_buffers_are_merged_and_whole_numbers_are_the_base(store: Store) -> None:
    base = nn.BatchNorm1d(2).state_dict()
    model = {n: t + 1 if t.is_floating_point() else t + 5 for n, t in base.items()}
    module = nn.BatchNorm1d(2)
    module.num_batches_tracked.fill_(9)
    settings = {"running_mean": 0.5, "num_batches_tracked": 1.0}
    LiveMerge(merger(store, base, model), module).apply(plan(**settings))
    assert module.running_mean.tolist() == [0.5, 0.5]
    assert module.num_batches_tracked.item() == 0


def test_gradients_are_not_recorded(store: Store) -> None:
    live, module = simple(store)
    live.apply(plan(a=0.5))
    assert module.a.requires_grad
    assert module.a.is_leaf
    assert module.a.grad_fn is None


def test_tied_tensors_that_are_stored_twice_need_the_same_settings(store: Store) -> None:
    shared = nn.Parameter(torch.zeros(2))
    module = Pair()
    module.register_parameter("embed", shared)
    module.register_parameter("head", shared)
    base, model = torch.zeros(2), torch.ones(2)
    both = merger(store, {"embed": base, "head": base}, {"embed": model, "head": model})
    live = LiveMerge(both, module)
    live.apply(plan(embed=0.5, head=0.5))
    assert shared.tolist() == [0.5, 0.5]
    with pytest.raises(UsageError, match="'embed', 'head' are one parameter of the module"):
        live.apply(plan(embed=0.5))


def test_a_head_that_is_stored_although_it_is_tied_follows_the_embeddings(
    store: Store, tmp_path: Path
) -> None:
    embed, head = "model.embed_tokens.weight", "lm_head.weight"
    base, model = store(tied(embed, head, 0.0), tie=True), store(tied(embed, head, 1.0))
    both = Merger(base, {"m": model})
    numbers = {"weight": (0.5,), "density": (1.0,)}
    plan = MergePlan("sparse_signed", ("m",), {embed: numbers, head: numbers | {"weight": (0.9,)}})
    module = nn.ModuleDict({"model": nn.ModuleDict({"embed_tokens": nn.Embedding(3, 2)})})
    module["lm_head"] = nn.Linear(2, 3, bias=False)
    module["lm_head"].weight = module["model"]["embed_tokens"].weight
    LiveMerge(both, module).apply(plan)
    both.write(plan, tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert module["lm_head"].weight.tolist() == [[0.5, 0.5]] * 3
    assert written[embed].tolist() == written[head].tolist() == [[0.5, 0.5]] * 3


def tied(embed: str, head: str, value: float) -> dict[str, Tensor]:
    return {embed: torch.full((3, 2), value), head: torch.full((3, 2), value)}


def test_tied_tensors_that_are_stored_with_other_numbers_are_refused(store: Store) -> None:
    shared = nn.Parameter(torch.zeros(2))
    module = Pair()
    module.register_parameter("embed", shared)
    module.register_parameter("head", shared)
    base = {"embed": torch.zeros(2), "head": torch.zeros(2)}
    model = {"embed": torch.zeros(2), "head": torch.ones(2)}
    with pytest.raises(CheckpointError, match="'embed' and 'head' are tied in the module"):
        LiveMerge(merger(store, base, model), module)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.zeros(3)}, "the checkpoint's tensor 'b' is not in the module"),
        (
            {"a": torch.zeros(3), "b": torch.zeros(2), "c": torch.zeros(1)},
            "the module's parameter 'c' is not in the checkpoint",
        ),
        (
            {"a": torch.zeros(3), "b": torch.zeros(5)},
            r"'b' has the shape \[5\] in the module and \[2\] in the checkpoint",
        ),
        ({"a": torch.zeros(3), "b": torch.zeros(2, device="meta")}, "no memory"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(
    store: Store, tensors: dict[str, Tensor], message: str
) -> None:
    base = {"a": torch.zeros(3), "b": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=message):
        LiveMerge(merger(store, base, base), Pair(**tensors))


def test_a_module_made_in_inference_mode_is_refused(store: Store) -> None:
    base = {"a": torch.zeros(2)}
    with torch.inference_mode():
        module = Pair()
        module.register_parameter("a", nn.Parameter(torch.zeros(2), requires_grad=False))
    with pytest.raises(CheckpointError, match="'a' was made under"):
        LiveMerge(merger(store, base, base), module)


def test_merging_inside_inference_mode_and_outside_it(store: Store) -> None:
    live, module = simple(store)
    with torch.inference_mode():
        live.apply(plan(a=0.5, b=0.5))
    live.apply(plan(a=0.25, b=0.5))
    assert module.a.tolist() == [0.25] * 3


def test_a_float_parameter_stored_as_whole_numbers_is_refused(store: Store) -> None:
    base = {"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.int8)}
    with pytest.raises(CheckpointError, match=r"'b' is torch.float32 in the module and I8 on disk"):
        LiveMerge(merger(store, base, base), Pair(a=torch.zeros(2), b=torch.zeros(2)))


def test_a_plan_that_does_not_fit_changes_nothing(store: Store) -> None:
    live, module = simple(store)
    live.apply(plan(a=0.5, b=0.5))
    with pytest.raises(CheckpointError, match="there is no tensor 'z'"):
        live.apply(plan(a=1.0, z=1.0))
    with pytest.raises(UsageError, match="the model 'other', which is not open"):
        live.apply(MergePlan("sparse_signed", ("other",), {}))
    assert module.a.tolist() == [0.5] * 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_module_on_a_gpu_holds_the_same_bits(store: Store) -> None:
    base = {"a": torch.randn(1001).bfloat16()}
    model = {"a": (base["a"] + torch.randn(1001) * 1e-3).bfloat16()}
    both = merger(store, base, model)
    module = Pair(a=torch.zeros(1001, device="cuda"))
    settings = {"a": {"weight": (0.7,), "density": (0.3,)}}
    LiveMerge(both, module).apply(MergePlan("sparse_signed", ("m",), settings))
    assert torch.equal(module.a.cpu(), both.tensor("a", settings["a"], "sparse_signed").float())
