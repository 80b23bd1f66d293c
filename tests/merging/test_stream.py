"""Reading ahead and writing behind: order, bounds, errors, and the same bits in any blocks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.files import staged_folder
from evomerge.errors import CheckpointError
from evomerge.merging import stream
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan
from evomerge.merging.registry import method_named
from evomerge.merging.stream import Block, Step, run, steps

Store = Callable[..., Checkpoint]
SETTINGS = {
    "sparse_signed": {"weight": (0.6, -0.3), "density": (0.2, 0.7)},
    "ties": {"weight": (1.0, 0.5), "density": (0.2, 0.4), "scaling": 1.0},
    "dare_linear": {"weight": (1.0, 0.5), "density": (0.5, 0.4)},
    "model_stock": {"weight": (1.0, 0.5)},
}
SHAPES = {"a.weight": (40, 33), "b.bias": (7,), "c.none": (0, 3), "d.one": (), "e.weight": (129,)}


def family(store: Store, kind: torch.dtype = torch.bfloat16) -> list[Checkpoint]:
    generator = torch.Generator().manual_seed(0)
    base = {n: torch.randn(shape, generator=generator) for n, shape in SHAPES.items()}
    ids = {"position_ids": torch.arange(9)}
    members = [
        {
            n: (t + step * torch.randn(t.shape, generator=generator)).to(kind)
            for n, t in base.items()
        }
        for step in (0.0, 1e-2, 1e-2)
    ]
    return [store(member | ids, cuts=(2,)) for member in members]


def written(
    merger: Merger, method: str, folder: Path, **options: object
) -> dict[str, torch.Tensor]:
    plan = MergePlan(method, ("x", "y"), dict.fromkeys(SHAPES, SETTINGS[method]))
    folder.mkdir()
    merger.write(plan, folder, **options)  # type: ignore[arg-type]
    return {n: t for shard in folder.glob("*.safetensors") for n, t in load_file(shard).items()}


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_blocks_and_threads_do_not_show(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    compiled: bool,
    kind: torch.dtype,
) -> None:
    base, x, y = family(store, kind)

    def merger() -> Merger:
        return Merger(base, {"x": x, "y": y}, compiled=compiled)

    whole = written(merger(), method, tmp_path / "whole")
    monkeypatch.setattr(stream, "BLOCK_BYTES", 500)
    monkeypatch.setattr(stream, "COUNTED_BYTES", 500)
    monkeypatch.setattr(stream, "REQUEST_BYTES", 64)
    monkeypatch.setattr("evomerge.merging.to_disk.LEAST_SHARE", 10)
    torch.set_num_threads(2)
    cut = written(merger(), method, tmp_path / "cut", shard_size=2000)
    assert whole.keys() == cut.keys() == {*SHAPES, "position_ids"}
    for name, tensor in whole.items():
        assert torch.equal(tensor, cut[name]), name
        settings = SETTINGS[method] if name in SHAPES else None
        assert torch.equal(tensor, merger().tensor(name, settings, method)), name


def test_a_tensor_that_fits_is_read_once_and_a_larger_one_is_counted_first(store: Store) -> None:
    base, x, _ = family(store)
    (only,) = steps("a.weight", [base, x], counts=True)
    assert (only.span, only.counts, only.writes) == ((0, 1320), True, True)
    assert [s.span for s in steps("b.bias", [base], counts=False)] == [(0, 7)]
    assert list(steps("c.none", [base, x], counts=True)) == []


def test_a_larger_tensor_is_counted_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK_BYTES", 4000)  # 1000 entries of two bfloat16 sources
    monkeypatch.setattr(stream, "COUNTED_BYTES", 4000)
    base, x, _ = family(store)
    found = [(s.span, s.counts, s.writes) for s in steps("a.weight", [base, x], counts=True)]
    cut = [(0, 1000), (1000, 1320)]
    expected = [(span, True, False) for span in cut] + [(span, False, True) for span in cut]
    assert found == expected


@pytest.mark.parametrize("once", [False, True])
def test_past_the_cache_is_read_what_nobody_reads_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, once: bool
) -> None:
    """Of a tensor that is counted first, what is read for the output."""
    base, x, y = family(store)
    directly: list[int] = []

    def noted(path: Path, descriptor: int, buffer: memoryview, offset: int) -> int:
        directly.append(len(buffer))
        return 0

    monkeypatch.setattr("evomerge.checkpoint.shard.read_directly", noted)
    monkeypatch.setattr(stream, "COUNTED_BYTES", 500)
    written(Merger(base, {"x": x, "y": y}), "ties", tmp_path / "out", once=once)
    size = 3 * 2 * sum(base.entry(n).count for n in SHAPES) + base.entry("position_ids").size
    assert sum(directly) == (size if once else 0)


def test_steps_are_written_in_their_order_and_blocks_are_few(store: Store) -> None:
    (base, *_) = family(store)
    wanted = [Step("e.weight", (i, i + 1), (base,), counts=False, writes=True) for i in range(40)]
    blocks: set[int] = set()
    order: list[int] = []

    def compute(step: Step, staged: object, block: Block) -> torch.Tensor | None:
        blocks.add(id(block))
        return torch.tensor([step.span[0]]) if step.span[0] % 3 else None

    run(wanted, compute, lambda step, out: order.append(int(out)))
    assert order == [i for i in range(40) if i % 3]
    assert len(blocks) <= stream.BLOCKS


@pytest.mark.parametrize("where", ["compute", "store"])
def test_an_error_of_any_stage_ends_the_run(store: Store, where: str) -> None:
    (base, *_) = family(store)
    wanted = [Step("e.weight", (i, i + 1), (base,), counts=False, writes=True) for i in range(40)]

    def fail(stage: str, step: Step) -> torch.Tensor:
        if stage == where and step.span[0] == 5:
            raise CheckpointError("on purpose")
        return torch.zeros(1)

    with pytest.raises(CheckpointError, match="on purpose"):
        run(
            wanted, lambda step, *_: fail("compute", step), lambda s, _: (fail("store", s), None)[1]
        )


@pytest.mark.parametrize("method", ["sparse_signed", "dare_linear", "model_stock"])
def test_a_file_that_shrinks_is_an_error_and_nothing_is_left(
    store: Store, tmp_path: Path, method: str
) -> None:
    base, x, y = family(store)
    merger = Merger(base, {"x": x, "y": y}, compiled=True)
    os.truncate(x.shards[0], 200)
    plan = MergePlan(method, ("x", "y"), dict.fromkeys(SHAPES, SETTINGS[method]))
    with (
        pytest.raises(CheckpointError, match=r"shorter|changed"),
        staged_folder(tmp_path / "out") as folder,
    ):
        merger.write(plan, folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["sparse_signed", "model_stock"])
def test_what_is_not_finite_is_counted_on_the_way(
    store: Store, tmp_path: Path, kind: torch.dtype, method: str
) -> None:
    values = torch.tensor([1.0, float("nan"), float("inf"), -float("inf"), 0.0, -1.0]).to(kind)
    base, x = store({"w": values, "i": torch.arange(3)}), store({"w": values.clone()})
    settings = {
        "sparse_signed": {"weight": (0.5, 0.5), "density": (1.0, 1.0)},
        "model_stock": {"weight": (1.0, 1.0)},
    }
    plan = MergePlan(method, ("x", "y"), {"w": settings[method]})
    (tmp_path / "out").mkdir()
    found = Merger(base, {"x": x, "y": x}).write(plan, tmp_path / "out").non_finite
    bad = ~torch.isfinite(load_file(tmp_path / "out" / "model.safetensors")["w"])
    assert found == {"w": int(bad.sum())} and int(bad.sum()) >= 3


@pytest.mark.parametrize(("method", "loaded"), [("ties", False), ("dare_ties", True)])
def test_torch_is_loaded_only_for_what_the_loops_cannot_do(
    store: Store, tmp_path: Path, method: str, loaded: bool
) -> None:
    """It takes longer to load than a small merge to write; then before there are threads."""
    settings = {field.name: 1.0 for field in method_named(method).fields if field.per == "group"}
    folders = [store({"w": torch.randn(3, 5).bfloat16()}).path for _ in range(2)]
    (tmp_path / "out").mkdir()
    code = f"""
import sys
from pathlib import Path
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan
base, model = (Checkpoint.open(folder) for folder in {[str(f) for f in folders]})
settings = {{"weight": (1.0,), "density": (0.5,), **{settings}}}
merger = Merger(base, {{"m": model}}, compiled=True)
merger.write(MergePlan({method!r}, ("m",), {{"w": settings}}), Path({str(tmp_path / "out")!r}))
print("torch" in sys.modules)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert found.strip() == str(loaded)
