"""The kernel for CUDA gives torch's bits: by Triton's interpreter, where triton is installed.

No device is needed: tensors on the CPU take its place. What compiles for a device is looked at.
"""

from __future__ import annotations

import importlib
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import CheckpointError
from evomerge.merging import cuda, cuda_copies
from evomerge.merging.cuda import DeviceMerger
from evomerge.merging.cuda_copies import DeviceCopies
from evomerge.merging.fused import Formula
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
from evomerge.merging.method import Settings
from evomerge.merging.plan import MergePlan

triton = pytest.importorskip("triton", reason="triton is not installed: it comes with CUDA builds")

Store = Callable[..., Checkpoint]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CPU = torch.device("cpu")

# What numpy says inside the interpreter about NaN and infinity.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")


def imported(patch: pytest.MonkeyPatch, *, interpreted: bool) -> ModuleType:
    """The kernel's module, as triton makes it in such a process."""
    patch.setenv("TRITON_INTERPRET", "1" if interpreted else "0")
    patch.delitem(sys.modules, "evomerge.merging.cuda_kernels", raising=False)
    module = importlib.import_module("evomerge.merging.cuda_kernels")
    patch.delitem(sys.modules, "evomerge.merging.cuda_kernels")
    return module


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The CPU is taken for a device on which the kernel is interpreted."""
    module = imported(monkeypatch, interpreted=True)
    monkeypatch.setattr(cuda, "kernels", lambda: module)
    monkeypatch.setattr(cuda, "takes", lambda target: True)
    monkeypatch.setattr("evomerge.merging.live._Source.tiles", lambda self, target: [])
    yield


class One(nn.Module):
    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.t = nn.Parameter(tensor)


def same(found: Tensor, expected: Tensor) -> bool:
    """Bit for bit; what is not finite is not finite."""
    kind = {4: torch.int32, 2: torch.int16}[found.dtype.itemsize]
    equal = found.view(kind) == expected.view(kind)
    return bool((equal | ~(found.isfinite() | expected.isfinite())).all())


def members(kinds: list[torch.dtype], count: int, seed: int, step: float) -> list[Tensor]:
    """A base and models near it: ties, signed zeros, subnormal and infinite numbers, NaN."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(count, generator=generator) * 0.02
    base[::7], base[3::11] = 0.0, -0.0
    base[5::13] *= 1e-38
    tensors = [base]
    for _ in kinds[1:]:
        steps = torch.randint(-4, 5, (count,), generator=generator) * step
        tensors.append(base + steps)
    for place, value in ((17, math.nan), (18, math.inf), (19, -math.inf), (20, 3.0e38)):
        tensors[place % len(tensors)][place::251] = value
    return [tensor.to(kind) for tensor, kind in zip(tensors, kinds, strict=True)]


def live(
    base: Checkpoint, models: dict[str, Checkpoint], module: nn.Module, budget: int, dtype: str
) -> LiveMerge:
    found = LiveMerge(Merger(base, models, compiled=False), module, dtype=dtype)
    found._devices[CPU] = DeviceMerger(CPU, DeviceCopies(CPU, budget))
    return found


def planned(method: str, models: dict[str, Checkpoint], values: Settings, mask: Any) -> MergePlan:
    return MergePlan(method, tuple(models), {"t": values}, mask=mask)


WEIGHTS = st.sampled_from([0.0, 1.0, -1.0, 0.7, 0.1, -0.3, 1.5, 1e-6])
DENSITIES = st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.77, 1.0])


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_merge_by_the_kernel_is_torch_bit_for_bit(
    store: Store, device: None, caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    """Over dtypes, one to four models, sizes, settings, masks; kept on the device or passed on."""
    draw = data.draw
    count = draw(st.integers(1, 4))
    kinds = [draw(st.sampled_from(DTYPES)) for _ in range(count + 1)]
    out = draw(st.sampled_from(DTYPES))
    size = draw(st.sampled_from([0, 1, 2, 3, 255, 1024, 1025, 2051]))
    step = draw(st.sampled_from([1e-42, 1e-4, 1e-2, 10.0]))
    base, *others = (store({"t": t}) for t in members(kinds, size, draw(st.integers(0, 99)), step))
    models = {f"m{i}": other for i, other in enumerate(others)}
    method = draw(st.sampled_from(["sparse_signed", "task_arithmetic", "linear", "ties"]))
    weights = tuple(draw(WEIGHTS) for _ in others)
    values: dict[str, Any] = {"weight": weights}
    if method == "linear":
        values["weight"] = tuple(map(abs, weights))
    if method in ("sparse_signed", "ties"):
        values["density"] = tuple(draw(DENSITIES) for _ in others)
    if method in ("task_arithmetic", "ties"):
        values["scaling"] = draw(st.sampled_from([1.0, -0.4, 0.3]))
    mask = draw(st.sampled_from(["smooth", "plain", "exact"]))  # by lot is the CPU's
    word = str(out).removeprefix("torch.")
    merger = Merger(base, models, compiled=False)
    expected = merger.tensor("t", values, method, dtype=word, mask=mask)
    module = One(torch.full((size,), 7.0, dtype=out))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_copies, "CHUNK", 700)
        patch.setattr(cuda, "CHUNK", 700)
        budget = draw(st.sampled_from([0, 3 * size, 2**30]))  # none, some and all stay there
        merge = live(base, models, module, budget, word)
        merge.apply(planned(method, models, values, mask))
        assert same(module.t.data, expected)
        assert not caplog.messages
        with torch.no_grad():
            module.t.fill_(7.0)
        assert merge.apply(planned(method, models, values, mask)) == 1  # now proved
        assert same(module.t.data, expected)


def test_elections_by_hand(device: None) -> None:
    base = torch.tensor([1.0, 1.0, 1.0, 1.0, -0.0])
    one = torch.tensor([3.0, 3.0, 3.0, 1.25, 0.0])
    two = torch.tensor([2.0, 0.0, -1.0, 1.0, 0.0])
    rules = np.array([[1, 0.5], [1, 0.5]], np.float32)
    out = torch.empty(5)
    cuda.launch(Formula((0, 1), rules, 2.0), out, [base, one, two])
    # Means of those that agree: (2 + 1) / 2, 2 alone, a draw, and one below its threshold.
    assert same(out, torch.tensor([4.0, 5.0, 1.0, 1.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_that_of_torch(device: None, dtype: torch.dtype) -> None:
    """Around every step of the half-width dtypes, and halfway."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(dtype).float()
    bits = every.view(torch.int32)
    half = 0x8000 if dtype == torch.bfloat16 else 0x1000
    wide = torch.cat(
        [(bits + shift).view(torch.float32) for shift in (0, half - 1, half, half + 1)]
    )
    out = torch.empty(len(wide), dtype=dtype)
    nothing = Formula((0,), np.zeros((1, 1), np.float32), None)
    cuda.launch(nothing, out, [wide, torch.zeros_like(wide)])
    finite = wide.isfinite()  # infinity times 0 is NaN
    assert same(out[finite], (wide + 0.0).to(dtype)[finite])
    assert out[~finite].isnan().all()


def test_what_does_not_fit_passes_through(store: Store) -> None:
    first, second = store({"t": torch.arange(4.0)}), store({"t": torch.arange(4.0) + 1})
    copies = DeviceCopies(CPU, 16)
    kept = copies.whole(first, "t")
    assert kept is not None and kept.tolist() == [0, 1, 2, 3]
    assert copies.whole(second, "t") is None
    assert copies.whole(first, "t") is kept
    assert copies.passing(0, second, "t", (1, 3)).tolist() == [2, 3]


def test_a_file_that_changed_is_noticed_though_its_copy_is_kept(store: Store) -> None:
    checkpoint = store({"t": torch.arange(4.0)})
    copies = DeviceCopies(CPU, 16)
    copies.whole(checkpoint, "t")
    file = checkpoint.path / "model.safetensors"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="changed"):
        copies.whole(checkpoint, "t")


@pytest.mark.parametrize("fault", ["wrong", "raises"])
def test_a_kernel_that_fails_its_proof_is_given_up(
    store: Store,
    device: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    calls = []

    def broken(form: Formula, out: Tensor, sources: list[Tensor]) -> None:
        calls.append(len(out))
        if fault == "raises":
            raise RuntimeError("Failed to find C compiler.\nMore.")
        out.zero_()

    monkeypatch.setattr(cuda, "launch", broken)
    base, models = store({"t": torch.ones(5)}), {"m": store({"t": torch.full((5,), 3.0)})}
    module = One(torch.zeros(5))
    merge = live(base, models, module, 2**20, "float32")
    with caplog.at_level(logging.WARNING, "evomerge"):
        for weight in (0.5, 1.0):
            values = {"weight": (weight,), "density": (1.0,)}
            merge.apply(planned("sparse_signed", models, values, "smooth"))
            assert module.t.tolist() == [1 + 2 * weight] * 5
    assert calls == [5]
    assert len(caplog.records) == 1
    assert "on the CPU" in caplog.text and "More" not in caplog.text


@pytest.mark.parametrize(("columns", "elect"), [(1, False), (2, False), (4, False), (4, True)])
def test_compiled_for_a_device_it_fuses_nothing_and_flushes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, columns: int, elect: bool
) -> None:
    """Products are rounded before they are added, quotients exact, subnormal numbers kept."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module = imported(monkeypatch, interpreted=False)
    signature = {
        "out": "*bf16",
        "sources": ("*bf16",) * 3,
        "rules": ("fp32",) * (2 * columns),
        "scaling": "fp32",
        "count": "i32",
        **dict.fromkeys(("MODELS", "COLUMNS", "ELECT", "BLOCK"), "constexpr"),
    }
    constants = dict(enumerate((2, columns, elect, module.BLOCK), 5))
    aligned = [(0,), (4,), *((1, i) for i in range(3))]
    source = ASTSource(
        module.merge,
        signature,
        constexprs={(place,): value for place, value in constants.items()},
        attrs={place: [["tt.divisibility", 16]] for place in aligned},
    )
    made = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False}
    )
    words = re.findall(r"^\s+(?:@%p\d+ )?([a-z][\w.:]+)", made.asm["ptx"], re.MULTILINE)
    arithmetic = {word for word in words if word.startswith(("add", "sub", "mul", "div", "fma"))}
    floats = {word for word in arithmetic if "f32" in word}
    allowed = {"add.rn.f32", "sub.rn.f32", "mul.rn.f32"}
    assert floats == (allowed | {"div.rn.f32"} if elect else allowed)
    assert words.count("ld.global.v4.b32") == 3  # 16 bytes at a time
