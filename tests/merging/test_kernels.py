"""The compiled loops give the bits that torch gives, whatever the work is cut into."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging import entries, fused, live
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
from evomerge.merging.method import Settings
from evomerge.merging.plan import Mask, MergePlan

Store = Callable[..., Checkpoint]
WORDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
DTYPES = st.sampled_from(list(WORDS))
BITS = {4: torch.int32, 2: torch.int16}


def same(found: Tensor, expected: Tensor) -> bool:
    """Bit for bit; NaN is NaN."""
    kind = BITS[found.dtype.itemsize]
    return bool(
        ((found.view(kind) == expected.view(kind)) | (found.isnan() & expected.isnan())).all()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_width_number_is_read_and_written_back(dtype: torch.dtype) -> None:
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(dtype)
    wide = torch.empty(len(every))
    nothing = fused.Formula((), torch.zeros(0, 1).numpy(), None)
    stored = fused.Run(WORDS[dtype], every.data_ptr())
    fused.blend(nothing, fused.Run("F32", wide.data_ptr()), [stored], (0, len(every)))
    assert same(wide, every.float() + 0.0)  # which makes -0 to 0, as the start of every sum
    back = torch.empty_like(every)
    fused.blend(nothing, fused.Run(WORDS[dtype], back.data_ptr()), [stored], (0, len(every)))
    assert same(back, (every.float() + 0.0).to(dtype))


@settings(max_examples=100)
@given(dtype=st.sampled_from([torch.float16, torch.bfloat16]), seed=st.integers(0, 2**32))
def test_rounding_is_that_of_torch(dtype: torch.dtype, seed: int) -> None:
    """Any bits of float32, and those around the steps of the half-width dtypes."""
    generator = torch.Generator().manual_seed(seed)
    anything = torch.randint(-(2**31), 2**31, (2000,), generator=generator).int()
    steps = anything & ~0x1FFF | torch.randint(0, 3, (2000,), generator=generator).int() + 0xFFF
    bits = torch.cat([anything, steps, anything & ~0xFFFF | 0x8000, steps >> 3])
    wide = bits.view(torch.float32)
    out = torch.empty(len(wide), dtype=dtype)
    nothing = fused.Formula((), torch.zeros(0, 1).numpy(), None)
    stored = fused.Run("F32", wide.data_ptr())
    fused.blend(nothing, fused.Run(WORDS[dtype], out.data_ptr()), [stored], (0, len(wide)))
    assert same(out, (wide + 0.0).to(dtype))


@pytest.mark.parametrize("scaling", [None, 1.5])
@pytest.mark.parametrize("dtype", list(WORDS))
def test_any_bits_are_merged_alike_by_vectors_and_by_strips(
    dtype: torch.dtype, scaling: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN, infinite and subnormal numbers among them, and sums that overflow."""
    generator, kind = torch.Generator().manual_seed(0), BITS[dtype.itemsize]
    bits = torch.randint(-(2**31), 2**31, (3, 4099), generator=generator).to(kind)
    base, *models = bits.view(dtype)
    factors, lows = (0.7, -1.5), (1e-6, 30.0)
    rules = torch.tensor([factors, lows]).T.contiguous().numpy()
    found = []
    for limit in (2, -1):  # none is written out then
        monkeypatch.setattr("evomerge.merging.kernels.UNROLLED", limit)
        runs = [fused.Run(WORDS[dtype], tensor.data_ptr()) for tensor in (base, *models)]
        found.append(torch.zeros_like(base))
        out = fused.Run(WORDS[dtype], found[-1].data_ptr())
        fused.blend(fused.Formula((0, 1), rules, scaling), out, runs, (1, len(base)))
    assert same(*found)
    if scaling is None:
        total = base.float() + 0.0
        for model, factor, low in zip(models, factors, lows, strict=True):
            vector = model.float() - base.float()
            total += vector.masked_fill(vector.abs() < low, 0.0) * factor
        assert same(found[0][1:], total.to(dtype)[1:])


def numbers(count: int) -> st.SearchStrategy[dict[str, tuple[float, ...]]]:
    weights = st.sampled_from([0.0, 1.0, -1.0, 0.7, 0.1, -0.3, 1.5, 1e-6])
    densities = st.one_of(
        st.just(1.0), st.just(0.0), st.sampled_from([0.05, 0.3, 0.5]), st.floats(0.001, 1.0)
    )
    each = {"weight": weights, "density": densities}
    return st.fixed_dictionaries({n: st.tuples(*[v] * count) for n, v in each.items()})


def members(kinds: list[torch.dtype], count: int, seed: int, step: float) -> list[Tensor]:
    """A base and models near it: signed zeros, subnormal numbers and ties among them."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(count, generator=generator) * 0.02
    base[::7], base[3::11] = 0.0, -0.0
    base[5::13] *= 1e-38
    steps = [torch.randn(count, generator=generator) * step for _ in kinds[1:]]
    tensors = [base, *(base + change for change in steps)]
    for tensor in tensors[1:]:
        tensor[1::5] = base[1::5]
        tensor[3::11] *= -1
    return [tensor.to(kind) for tensor, kind in zip(tensors, kinds, strict=True)]


def given_settings(method: str, values: dict[str, tuple[float, ...]], scaling: float) -> Settings:
    has = {
        "sparse_signed": ("weight", "density"),
        "task_arithmetic": ("weight", "scaling"),
        "linear": ("weight",),
        "ties": ("weight", "density", "scaling"),
    }[method]
    found: dict[str, float | tuple[float, ...]] = {**values, "scaling": scaling}
    if method == "linear":
        found["weight"] = tuple(abs(weight) for weight in values["weight"])
    return {name: found[name] for name in has}


class One(nn.Module):
    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.t = nn.Parameter(tensor)


@settings(max_examples=250)
@given(data=st.data())
def test_a_compiled_merge_is_torch_bit_for_bit(store: Store, data: st.DataObject) -> None:
    """On disk and live, over dtypes, models, sizes, settings, chunks and threads."""
    draw = data.draw
    models = draw(st.integers(1, 4))
    kinds = [draw(DTYPES) for _ in range(models + 1)]
    out = draw(DTYPES)
    if draw(st.booleans()):
        out = draw(DTYPES)
        kinds = [out] * (models + 1)
    count = draw(st.sampled_from([0, 1, 2, 3, 255, 256, 257, 701]))
    step = draw(st.sampled_from([1e-42, 1e-4, 1e-2, 10.0]))
    tensors = members(kinds, count, draw(st.integers(0, 999)), step)
    method = draw(st.sampled_from(["sparse_signed", "task_arithmetic", "linear", "ties"]))
    values = given_settings(method, draw(numbers(models)), draw(st.sampled_from([1.0, -0.4, 0.0])))
    base, *others = [store({"t": tensor}) for tensor in tensors]
    named = {f"m{i}": other for i, other in enumerate(others)}
    masks = ("smooth", "exact") if method == "ties" else get_args(Mask)  # each is compiled
    mask = draw(st.sampled_from(masks))
    wanted = {"dtype": WORDS[out], "mask": mask}
    expected = Merger(base, named, compiled=False).tensor("t", values, method, **wanted)
    chunk, threads = draw(st.sampled_from([1, 7, 256, 2**18])), draw(st.integers(1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "CHUNK", chunk)
        patch.setattr(live, "TILE", chunk)
        patch.setattr("evomerge.merging.kernels.UNROLLED", 2)  # each number is compiled anew
        torch.set_num_threads(threads)
        merger = Merger(base, named, compiled=True)
        assert same(merger.tensor("t", values, method, **wanted), expected)
        module = One(torch.full((count,), torch.nan, dtype=expected.dtype))
        plan = MergePlan(method, tuple(named), {"t": values}, mask=mask)
        LiveMerge(merger, module, dtype=WORDS[out]).apply(plan)
        torch.set_num_threads(1)
    assert same(module.t.detach(), expected)
    for checkpoint in (base, *others):
        checkpoint.close()


@pytest.mark.parametrize("method", ["sparse_signed", "ties"])
@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so(store: Store, method: str, odd: float) -> None:
    base, model = torch.zeros(6), torch.tensor([1.0, odd, 0.25, -odd, 3.0, 4.0])
    merger = Merger(store({"t": base}), {"m": store({"t": model})}, compiled=True)
    values = given_settings(method, {"weight": (0.5,), "density": (0.6,)}, 1.0)
    found = merger.tensor("t", values, method)
    assert found.isfinite().tolist() == [True, False, True, False, True, True]


def test_a_file_that_changed_is_not_read_through_its_map(store: Store) -> None:
    base, model = store({"t": torch.zeros(3)}), store({"t": torch.ones(3)})
    live = LiveMerge(Merger(base, {"m": model}, compiled=True), One(torch.zeros(3)))
    live.apply(MergePlan("linear", ("m",), {"t": {"weight": (1.0,)}}))
    os.utime(model.shards[0], ns=(1, 1))
    with pytest.raises(Exception, match="was changed"):
        live.apply(MergePlan("task_arithmetic", ("m",), {"t": {"weight": (1.0,), "scaling": 0.5}}))


LOADED = """
import sys, torch
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
checkpoint = Checkpoint.open({path!r})
merger = Merger(checkpoint, {{"m": checkpoint}}, compiled={compiled})
merger.tensor("t", {{"weight": (1.0,), "density": (0.5,)}}, "sparse_signed")
print("numba" in sys.modules)
"""


@pytest.mark.parametrize("compiled", [True, False])
def test_numba_is_loaded_for_a_compiled_merge_only(store: Store, compiled: bool) -> None:
    path = str(store({"t": torch.ones(3)}).path)
    script = LOADED.format(path=path, compiled=compiled)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(compiled)


def test_without_numba_torch_does_the_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.merging.fused.loops", lambda: None)
    checkpoints = [store({"t": torch.zeros(3)}), store({"t": torch.ones(3)})]
    merger = Merger(checkpoints[0], {"m": checkpoints[1]}, compiled=True)
    values = {"weight": (0.5,), "density": (1.0,)}
    assert merger.tensor("t", values, "sparse_signed").tolist() == [0.5] * 3


def test_loops_kept_on_disk_are_told_by_every_module_that_they_are_made_of() -> None:
    from evomerge.merging import words

    folder, ground = Path(words.__file__).parent, ("numba", "llvmlite", "evomerge.merging.words")
    made_of = set()
    for path in folder.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if any(name.startswith(ground) for name in names):
                made_of.add(path.stem)
    assert {"kernels", "lanes"} <= made_of <= set(words.SOURCES)
    assert all((folder / f"{name}.py").exists() for name in words.SOURCES)
