"""Export, live model and a plain torch reference agree bit for bit, however the work is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging import entries
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan

Store = Callable[..., Checkpoint]
WORDS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def reference(
    base: Tensor,
    models: list[Tensor],
    weights: tuple[float, ...],
    densities: tuple[float, ...],
    dtype: torch.dtype,
) -> Tensor:
    """What `sparse_signed` is, in plain torch on whole tensors."""
    total = base.float()
    for model, weight, density in zip(models, weights, densities, strict=True):
        if weight == 0:
            continue
        vector = model.float() - base.float()
        codes = vector.abs().view(torch.int32) >> 16
        counts = torch.bincount(codes.flatten(), minlength=2**15)
        if density * vector.numel() < counts[1:].sum():
            reached = counts.flip(0).cumsum(0).flip(0)  # entries of this code or a larger one
            boundary = int((reached >= density * vector.numel()).nonzero().max())
            above = int(reached[boundary] - counts[boundary])
            fraction = (density * vector.numel() - above) / int(counts[boundary])
            vector = torch.where(codes == boundary, vector * fraction, vector)
            vector = torch.where(codes < boundary, 0.0, vector)
        total = total + vector * weight
    return base.clone() if dtype == base.dtype and not any(weights) else total.to(dtype)


class Small(nn.Module):
    """Embeddings, a layer, a norm, and a head that is tied to the embeddings."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 7, dtype=dtype)
        self.layer = nn.Linear(7, 5, dtype=dtype)
        self.norm = nn.BatchNorm1d(5, dtype=dtype)
        self.head = nn.Linear(7, 13, bias=False, dtype=dtype)
        self.head.weight = self.embed.weight

    def stored(self) -> dict[str, Tensor]:
        """As checkpoints hold it: the head is absent."""
        state = self.state_dict()
        return {name: state[name].clone() for name in state if name != "head.weight"}


def family(dtype: torch.dtype, models: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """A base and models near it; steps so small that bfloat16 makes many ties."""
    generator = torch.Generator().manual_seed(seed)
    base = Small(dtype).stored()
    members = [base]
    for _ in range(models):
        member = {}
        for name, tensor in base.items():
            noise = torch.randn(tensor.shape, generator=generator) * 3e-4
            member[name] = (
                (tensor + noise).to(tensor.dtype) if tensor.is_floating_point() else tensor
            )
        members.append(member)
    return members


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def exported(merger: Merger, plan: MergePlan, folder: Path, **options: object) -> dict[str, Tensor]:
    folder.mkdir()
    merger.write(plan, folder, **options)  # type: ignore[arg-type]
    return {n: t for shard in folder.glob("*.safetensors") for n, t in load_file(shard).items()}


def opened(store: Store, members: list[dict[str, Tensor]], cuts: tuple[int, ...] = ()) -> Merger:
    base, *models = [store(member, cuts=cuts) for member in members]
    return Merger(base, {f"m{i}": model for i, model in enumerate(models)})


def sparse(merger: Merger, weights: tuple[float, ...], densities: tuple[float, ...]) -> MergePlan:
    numbers = {"weight": weights, "density": densities}
    return MergePlan(
        "sparse_signed", tuple(merger.models), dict.fromkeys(merger.base.tensors, numbers)
    )


@pytest.mark.parametrize("stored", WORDS)
@pytest.mark.parametrize("out", [None, *WORDS])
@pytest.mark.parametrize("held", WORDS)
def test_export_live_model_and_reference_agree_bit_for_bit(
    store: Store,
    tmp_path: Path,
    stored: torch.dtype,
    out: torch.dtype | None,
    held: torch.dtype,
) -> None:
    weights, densities = (0.7, -0.4, 0.0), (0.3, 1.0, 0.5)
    members = family(stored, models=3)
    merger = opened(store, members, cuts=(1, 3))
    plan = sparse(merger, weights, densities)
    word = None if out is None else WORDS[out]
    written = exported(merger, plan, tmp_path / "out", dtype=word, shard_size=100)
    module = Small(held)
    live = LiveMerge(merger, module, dtype=word)
    live.apply(plan)
    assert set(written) == set(members[0])
    for name, base in members[0].items():
        if base.is_floating_point():
            models = [member[name] for member in members[1:]]
            expected = reference(base, models, weights, densities, out or stored)
        else:
            expected = base
        assert bits(written[name]) == bits(expected), name
        held_now = module.state_dict()[name]
        assert bits(held_now) == bits(expected.to(held_now.dtype)), name
    assert module.head.weight is module.embed.weight
    live.restore()
    for name, base in members[0].items():
        held_now = module.state_dict()[name]
        assert bits(held_now) == bits(base.to(held_now.dtype)), name


@settings(max_examples=30)
@given(
    chunk=st.integers(1, 100),
    threads=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 9), max_size=4),
    shard_size=st.integers(1, 2000),
    method=st.sampled_from(["sparse_signed", "task_arithmetic", "linear", "ties"]),
)
def test_chunks_threads_and_shards_do_not_change_a_bit(
    store: Store,
    tmp_path_factory: pytest.TempPathFactory,
    chunk: int,
    threads: int,
    cuts: list[int],
    shard_size: int,
    method: str,
) -> None:
    members = family(torch.bfloat16, models=3)
    numbers: dict[str, float | tuple[float, ...]] = {"weight": (0.7, 0.3, 1.1)}
    if method in ("sparse_signed", "ties"):
        numbers["density"] = (0.2, 0.6, 1.0)
    if method in ("task_arithmetic", "ties"):
        numbers["scaling"] = 0.9
    folder = tmp_path_factory.mktemp("cut")
    whole = opened(store, members)
    plan = MergePlan(method, tuple(whole.models), dict.fromkeys(members[0], numbers))
    expected = exported(whole, plan, folder / "whole", dtype="float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "CHUNK", chunk)
        torch.set_num_threads(threads)
        merger = opened(store, members, cuts=tuple(cuts))
        found = exported(merger, plan, folder / "cut", dtype="float32", shard_size=shard_size)
        module = Small(torch.float32)
        LiveMerge(merger, module, dtype="float32").apply(plan)
        torch.set_num_threads(1)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert bits(found[name]) == bits(tensor) == bits(module.state_dict()[name]), name


ODD_BITS = torch.tensor([0x8000, 0x7FC1, 0xFFA3, 0x7F80, 0x0001, 0x3F80], dtype=torch.uint16)


@pytest.mark.parametrize("method", ["sparse_signed", "task_arithmetic", "linear", "ties"])
def test_zero_weights_give_the_base_bit_for_bit(store: Store, tmp_path: Path, method: str) -> None:
    base = {"odd": ODD_BITS.view(torch.bfloat16)}  # -0.0, two NaNs, infinity, a denormal, 1
    merger = opened(store, [base, {"odd": torch.ones(6, dtype=torch.bfloat16)}])
    numbers: dict[str, float | tuple[float, ...]] = {"weight": (0.0,)}
    if method in ("sparse_signed", "ties"):
        numbers["density"] = (0.5,)
    if method in ("task_arithmetic", "ties"):
        numbers["scaling"] = 1.0
    plan = MergePlan(method, ("m0",), {"odd": numbers})
    assert bits(exported(merger, plan, tmp_path / "out")["odd"]) == bits(base["odd"])


def test_tensors_that_the_plan_does_not_name_are_the_base_bit_for_bit(
    store: Store, tmp_path: Path
) -> None:
    base = {"odd": ODD_BITS.view(torch.bfloat16), "whole": torch.arange(3)}
    merger = opened(store, [base, {"odd": torch.ones(6), "whole": torch.zeros(3)}])
    written = exported(merger, MergePlan("sparse_signed", ("m0",), {}), tmp_path / "out")
    assert {name: bits(tensor) for name, tensor in written.items()} == {
        name: bits(tensor) for name, tensor in base.items()
    }


@settings(max_examples=40)
@given(
    dtype=st.sampled_from(list(WORDS)),
    seed=st.integers(0, 2**32),
    spread=st.floats(-12, 6),
    method=st.sampled_from(["sparse_signed", "task_arithmetic", "linear", "ties"]),
)
def test_one_model_with_weight_and_density_one_is_that_model(
    store: Store, dtype: torch.dtype, seed: int, spread: float, method: str
) -> None:
    """To within half a unit in the last place of float32 at the larger of the two numbers."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(33, generator=generator).to(dtype)
    model = (base + torch.randn(33, generator=generator) * 10**spread).to(dtype)
    model = torch.where(model.isfinite(), model, base)
    merger = opened(store, [{"t": base}, {"t": model}])
    numbers = {
        "sparse_signed": {"weight": (1.0,), "density": (1.0,)},
        "task_arithmetic": {"weight": (1.0,), "scaling": 1.0},
        "linear": {"weight": (0.3,)},
        "ties": {"weight": (1.0,), "density": (1.0,), "scaling": 1.0},
    }[method]
    found = merger.tensor("t", numbers, method).double()
    larger = torch.maximum(base.double().abs(), model.double().abs())
    rounding = torch.finfo(dtype).eps / 2 * model.double().abs()
    assert bool(((found - model.double()).abs() <= larger * 2**-23 + rounding).all())
    if spread < -2:  # base and model differ little: then nothing is lost on the way
        assert bool((found == model.double()).all()) or dtype == torch.float32


def test_arithmetic_is_float64_where_an_input_is(store: Store) -> None:
    base = torch.tensor([1.0], dtype=torch.float64)
    merger = opened(store, [{"t": base}, {"t": torch.tensor([1.0 + 2**-40]).double() + 2**-40}])
    found = merger.tensor("t", {"weight": (0.5,), "density": (1.0,)}, "sparse_signed")
    assert found.item() == 1.0 + 2**-41
    assert found.dtype == torch.float64


def test_mixed_dtypes_are_merged_in_the_base_dtype(store: Store) -> None:
    base = {"t": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}
    merger = opened(store, [base, {"t": torch.tensor([1.5, 2.25], dtype=torch.float16)}])
    found = merger.tensor("t", {"weight": (2.0,), "density": (1.0,)}, "sparse_signed")
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [2.0, 2.5]


@pytest.mark.parametrize("shape", [(0,), (), (1,), (2, 3, 5)])
def test_every_shape_is_merged(store: Store, tmp_path: Path, shape: tuple[int, ...]) -> None:
    merger = opened(store, [{"t": torch.zeros(shape)}, {"t": torch.ones(shape)}])
    written = exported(merger, sparse(merger, (0.5,), (0.5,)), tmp_path / "out")
    live = nn.Module()
    live.register_parameter("t", nn.Parameter(torch.full(shape, torch.nan)))
    LiveMerge(merger, live).apply(sparse(merger, (0.5,), (0.5,)))
    assert written["t"].shape == shape
    assert torch.equal(written["t"], torch.full(shape, 0.25))
    assert torch.equal(live.state_dict()["t"], written["t"])


def test_a_nan_in_a_model_shows_in_the_merge(store: Store) -> None:
    merger = opened(store, [{"t": torch.zeros(3)}, {"t": torch.tensor([1.0, torch.nan, 0.25])}])
    for method, more in {"sparse_signed": {}, "ties": {"scaling": 1.0}}.items():
        numbers = {"weight": (1.0,), "density": (0.5,)} | more
        found = merger.tensor("t", numbers, method)
        assert found.isnan().tolist() == [False, True, False]
