"""Sums of adapters by compiled loops: the bits of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Barrier, Event
from typing import Any
from weakref import ref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging import entries
from evomerge.merging.fused import loops
from evomerge.merging.live import LiveMerge
from evomerge.merging.low_rank import Factors, Panels, fill_product, sum_of
from evomerge.merging.magnitudes import Threshold
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan
from evomerge.merging.products import Products, fill_compiled, products
from evomerge.merging.scratch import Scratch

pytestmark = pytest.mark.skipif(loops() is None, reason="no numba here")

WAIT = 60
"""Seconds that a thread waits for another one, which a thread that failed never wakes."""

Store, Adapt, Open = Callable[..., Checkpoint], Callable[..., Path], Callable[[Path], Adapter]


@pytest.fixture
def opened() -> Iterator[Open]:
    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(Adapter.open(folder))


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def factors(rows: int, columns: int, rank: int, seed: int) -> Factors:
    up, down = random(rows, rank, seed=seed), random(rank, columns, seed=seed + 1)
    return Factors.of(up, down, transposed=False)


def stretch(given: Factors, start: int, stop: int) -> Tensor:
    out = torch.empty(stop - start)
    fill_product(given, start, out, Scratch())
    return out


SIZES = st.tuples(st.sampled_from([1, 7, 8, 9, 19]), st.sampled_from([1, 5, 31, 32, 33, 70]))


@settings(max_examples=40)
@given(SIZES, st.integers(1, 9), st.data())
def test_task_vectors_have_the_bits_of_torch(
    size: tuple[int, int], rank: int, data: st.DataObject
) -> None:
    given = factors(*size, rank, seed=3)
    start = data.draw(st.integers(0, size[0] * size[1]))
    stop = data.draw(st.integers(start, size[0] * size[1]))
    out = torch.full((stop - start,), 7.0)
    assert fill_compiled(given, start, out)
    assert torch.equal(out, stretch(given, start, stop))
    assert not fill_compiled(given, start, out.double())


@settings(max_examples=40)
@given(SIZES, st.data())
def test_sums_of_thinned_task_vectors_have_the_bits_of_torch(
    size: tuple[int, int], data: st.DataObject
) -> None:
    parts = {0: factors(*size, 8, seed=3), 2: factors(*size, 3, seed=5)}
    weights = (0.5, 9.0, -1.25)
    rule = Threshold(0.5, 1.0, 0.25)
    start = data.draw(st.integers(0, size[0] * size[1]))
    stop = data.draw(st.integers(start, size[0] * size[1]))
    base = random(stop - start, seed=9).bfloat16()
    expected = base.float() + 0.0
    for i, part in parts.items():
        vector = stretch(part, start, stop)
        if i == 2:
            kept = torch.where(vector.abs() < rule.high, vector * rule.fraction, vector)
            vector = kept.masked_fill(vector.abs() < rule.low, 0.0)
        expected += vector * weights[i]
    out = torch.zeros_like(base)
    lazy = {i: partial(lambda part: part, part) for i, part in parts.items()}
    form = products(lazy, size[1], weights, {2: rule})
    form.add(out.data_ptr(), base.data_ptr(), (start, stop))
    assert torch.equal(out, expected.bfloat16())


@settings(max_examples=20)
@given(SIZES, st.data())
def test_a_sum_of_whole_task_vectors_is_one_product(
    size: tuple[int, int], data: st.DataObject
) -> None:
    parts = [(factors(*size, 8, seed=3), 0.5), (factors(*size, 3, seed=5), -1.25)]
    start = data.draw(st.integers(0, size[0] * size[1]))
    stop = data.draw(st.integers(start, size[0] * size[1]))
    base = random(stop - start, seed=9).bfloat16()
    whole = stretch(sum_of(parts), start, stop)
    apart = sum(stretch(part, start, stop) * weight for part, weight in parts)
    assert torch.allclose(whole, torch.as_tensor(apart), rtol=0, atol=1e-5)
    out = torch.zeros_like(base)
    Products(lambda: parts, size[1]).add(out.data_ptr(), base.data_ptr(), (start, stop))
    assert torch.equal(out, (base.float() + 0.0 + whole).bfloat16())


def test_nan_and_negative_zero_are_those_of_torch() -> None:
    up, down = torch.tensor([[1.0], [0.0]]), torch.tensor([[torch.nan, 0.0]])
    given = Factors.of(up, down, transposed=False)
    base = torch.tensor([-0.0, -0.0, 1.0, -0.0]).bfloat16()
    out = torch.empty_like(base)
    products({0: lambda: given}, 2, (1.0,), {}).add(out.data_ptr(), base.data_ptr(), (0, 4))
    assert out.isnan().tolist() == [True, False, True, False]
    assert not torch.signbit(out[1::2]).any()


class LockFree:
    """`functools.cached_property` from Python 3.12 on, with two threads in it at the same time."""

    def __init__(self, make: Callable[[Factors], Panels]) -> None:
        self._make, self._both = make, Barrier(2)
        self.made: list[ref[Tensor]] = []
        self.first_used, self.second_kept = Event(), Event()

    def __get__(self, factors: Factors, owner: type[Factors]) -> Panels:
        panels = self._make(factors)
        first = self._both.wait(WAIT) == 0
        if first:
            self.made = [ref(panels.left), ref(panels.right)]
        else:
            assert self.first_used.wait(WAIT)
        vars(factors)["panels"] = panels
        if not first:
            self.second_kept.set()
        return panels


def test_panels_outlive_their_loop_when_another_thread_makes_them_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from evomerge.merging import product_loops  # loads numba

    shared = LockFree(vars(Factors)["panels"].func)
    monkeypatch.setattr(Factors, "panels", shared)
    given, fill, alive = factors(19, 70, 3, seed=3), product_loops.fill, list[bool]()

    def loop(*numbers: Any) -> None:
        shared.first_used.set()
        assert shared.second_kept.wait(WAIT)
        alive.extend(made() is not None for made in shared.made)
        fill(*numbers)

    monkeypatch.setattr(product_loops, "fill", loop)
    outs = [torch.empty(19 * 70) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(partial(fill_compiled, given, 0), outs))
    assert alive == [True] * 4
    assert all(torch.equal(out, stretch(given, 0, 19 * 70)) for out in outs)


BASE = {"q.weight": random(19, 40, seed=1), "v.weight": random(8, 16, seed=2), "n": torch.ones(5)}


@pytest.mark.parametrize("density", [1.0, 0.4])
def test_a_compiled_merge_of_adapters_is_torchs_on_disk_and_live(
    store: Store, adapt: Adapt, opened: Open, tmp_path: Path, density: float
) -> None:
    shapes = {"q": (19, 40), "v": (8, 16)}
    adapters = {
        f"m{i}": opened(
            adapt(
                {
                    f"{module}.lora_{part}.weight": random(*shape, seed=10 * i + len(module))
                    for module, (rows, columns) in list(shapes.items())[: 2 - i % 2]
                    for part, shape in (("A", (2, columns)), ("B", (rows, 2)))
                }
            )
        )
        for i in range(3)
    }
    base = store({name: tensor.bfloat16() for name, tensor in BASE.items()})
    settings = {"weight": (0.5, -1.0, 0.7), "density": (1.0, density, density)}
    plan = MergePlan("sparse_signed", tuple(adapters), dict.fromkeys(BASE, settings))
    found = {}
    for compiled in (False, True):
        merger = Merger(base, adapters, compiled=compiled)
        folder = tmp_path / str(compiled)
        folder.mkdir()
        merger.write(plan, folder)
        module = torch.nn.Module()
        for part in ("q", "v"):
            module.add_module(part, torch.nn.Module())
            empty = torch.nn.Parameter(torch.zeros(BASE[f"{part}.weight"].shape).bfloat16())
            module.get_submodule(part).register_parameter("weight", empty)
        module.register_parameter("n", torch.nn.Parameter(torch.zeros(5).bfloat16()))
        LiveMerge(merger, module).apply(plan)
        live = {name: tensor.float() for name, tensor in module.state_dict().items()}
        with Checkpoint.open(folder) as written:
            assert all(torch.equal(written.tensor(n).float(), live[n]) for n in BASE)
        found[compiled] = live
    assert all(torch.equal(found[True][name], found[False][name]) for name in BASE)
    assert not torch.equal(found[True]["q.weight"], BASE["q.weight"].bfloat16().float())


def test_chunks_do_not_show(
    store: Store, adapt: Adapt, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"q.lora_A.weight": random(2, 40, seed=1), "q.lora_B.weight": random(19, 2, seed=2)}
    base = store({name: tensor.bfloat16() for name, tensor in BASE.items()})
    merger = Merger(base, {"a": opened(adapt(one))}, compiled=True)
    numbers = {"weight": (0.7,), "scaling": 1.0}
    whole = merger.tensor("q.weight", numbers, "task_arithmetic")
    monkeypatch.setattr(entries, "CHUNK", 37)
    assert torch.equal(merger.tensor("q.weight", numbers, "task_arithmetic"), whole)
