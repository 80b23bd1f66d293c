"""What is written in pieces loads in the safetensors library byte for byte."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from evomerge.checkpoint import writer as writer_module
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import dtype_word
from evomerge.checkpoint.layout import checked_layout, plan_shards
from evomerge.checkpoint.writer import CheckpointWriter
from evomerge.errors import CheckpointError, DiskFullError, StudyError

TENSORS = {
    "odd": torch.tensor([1.0, float("nan"), -0.0]).bfloat16(),
    "wide": torch.tensor([1e300], dtype=torch.float64),
    "matrix": torch.arange(15.0).reshape(3, 5),
    "number": torch.tensor(3),
    "empty": torch.zeros(0, 4),
    "mask": torch.tensor([True, False, True]),
}
LAYOUT = [(name, dtype_word(t.dtype), tuple(t.shape)) for name, t in TENSORS.items()]


def write_all(writer: CheckpointWriter) -> None:
    for name, tensor in TENSORS.items():
        writer.write(name, 0, tensor.flatten())
    writer.finish()


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(
        found[n].dtype == t.dtype
        and found[n].shape == t.shape
        and torch.equal(*(x.reshape(-1).view(torch.uint8) for x in (found[n], t)))
        for n, t in TENSORS.items()
    )


def test_one_shard_needs_no_index(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, LAYOUT) as writer:
        write_all(writer)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert same(loaded(tmp_path))


@pytest.mark.parametrize("shard_size", [1, 8, 30, 60, 68, 10**9])
def test_shards_are_read_the_same_by_the_library_and_by_us(tmp_path: Path, shard_size: int) -> None:
    with CheckpointWriter(tmp_path, LAYOUT, shard_size=shard_size) as writer:
        write_all(writer)
    assert same(loaded(tmp_path))
    with Checkpoint.open(tmp_path) as checkpoint:
        assert same({name: checkpoint.tensor(name) for name in checkpoint.tensors})


def test_the_index_follows_the_convention(tmp_path: Path) -> None:
    layout = [("b", "F32", (2,)), ("a", "F32", (2,)), ("c", "U8", (3,))]
    with CheckpointWriter(tmp_path, layout, shard_size=11) as writer:
        writer.write("a", 0, torch.zeros(2))
        writer.write("b", 0, torch.zeros(2))
        writer.write("c", 0, torch.zeros(3, dtype=torch.uint8))
        writer.finish()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 19},
        "weight_map": {
            "a": "model-00002-of-00002.safetensors",
            "b": "model-00001-of-00002.safetensors",
            "c": "model-00002-of-00002.safetensors",
        },
    }


def test_headers_carry_the_metadata(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, LAYOUT, metadata={"trial": "7"}) as writer:
        write_all(writer)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "trial": "7"}


def test_every_tensor_is_aligned_to_its_entries() -> None:
    """The library refuses to view a float32 at an odd offset."""
    (shard,) = plan_shards(checked_layout(LAYOUT))
    assert [shard.offsets[name] % 8 for name in ("wide", "number")] == [0, 0]
    assert shard.offsets["matrix"] % 4 == 0
    assert shard.offsets["odd"] % 2 == 0


def test_a_checkpoint_may_hold_no_tensors(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, []) as writer:
        writer.finish()
    assert loaded(tmp_path) == {}


@settings(max_examples=50)
@given(st.data())
def test_pieces_may_come_in_any_order(tmp_path_factory, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("pieces")
    flat = torch.arange(20.0)
    cuts = sorted(data.draw(st.sets(st.integers(1, 19))) | {0, 20})
    pieces = data.draw(st.permutations(list(pairwise(cuts))))
    with CheckpointWriter(folder, [("t", "F32", (4, 5))]) as writer:
        for start, stop in pieces:
            writer.write("t", start, flat[start:stop])
        writer.finish()
    assert torch.equal(loaded(folder)["t"], flat.reshape(4, 5))


def test_threads_write_at_the_same_time(tmp_path: Path) -> None:
    flat = torch.arange(100_000)
    with CheckpointWriter(tmp_path, [("t", "I64", (100_000,))]) as writer:
        with ThreadPoolExecutor(8) as pool:
            starts = range(0, 100_000, 1000)
            list(pool.map(lambda i: writer.write("t", i, flat[i : i + 1000]), starts))
        writer.finish()
    assert torch.equal(loaded(tmp_path)["t"], flat)


def test_pieces_with_gaps_or_gradients_are_written_too(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, [("t", "F32", (3,)), ("g", "F32", (1,))]) as writer:
        writer.write("t", 0, torch.arange(6.0)[::2])
        writer.write("g", 0, torch.ones(1, requires_grad=True))
        writer.finish()
    assert loaded(tmp_path)["t"].tolist() == [0.0, 2.0, 4.0]


def test_what_is_missing_is_noticed(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, [("t", "F32", (5,))]) as writer:
        writer.write("t", 0, torch.zeros(2))
        writer.write("t", 3, torch.zeros(2))
        with pytest.raises(CheckpointError, match="'t' 4 of 5 entries"):
            writer.finish()


@pytest.mark.parametrize(
    ("name", "start", "piece", "words"),
    [
        ("x", 0, torch.zeros(1), "no tensor 'x'"),
        ("t", 0, torch.zeros(1, dtype=torch.float64), "is F32, the piece F64"),
        ("t", -1, torch.zeros(1), "entries -1 to 0"),
        ("t", 4, torch.zeros(2), "entries 4 to 6"),
        ("t", 2, torch.zeros(1), "written twice"),
        ("t", 0, torch.zeros(5), "written twice"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, start: int, piece: torch.Tensor, words: str
) -> None:
    with CheckpointWriter(tmp_path, [("t", "F32", (5,))]) as writer:
        writer.write("t", 1, torch.zeros(2))
        with pytest.raises(CheckpointError, match=words):
            writer.write(name, start, piece)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ([("t", "F32", ()), ("t", "F32", ())], "two tensors cannot have the name 't'"),
        ([("__metadata__", "F32", ())], "cannot have the name"),
        ([("t", "F99", ())], "unknown dtype 'F99'"),
    ],
)
def test_layouts_that_no_file_can_hold_are_refused(
    tmp_path: Path, layout: list[tuple[str, str, tuple[int, ...]]], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        CheckpointWriter(tmp_path, layout)


def test_existing_shards_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("mine")
    with pytest.raises(StudyError, match="File exists"):
        CheckpointWriter(tmp_path, LAYOUT)
    assert (tmp_path / "model.safetensors").read_text() == "mine"


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
def test_a_full_disk_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(DiskFullError), CheckpointWriter(tmp_path, LAYOUT) as writer:
        write_all(writer)


def test_file_systems_that_cannot_reserve_space_are_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with CheckpointWriter(tmp_path, LAYOUT) as writer:
        write_all(writer)
    assert same(loaded(tmp_path))


def test_short_writes_go_on_where_they_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    with CheckpointWriter(tmp_path, LAYOUT) as writer:
        write_all(writer)
    assert same(loaded(tmp_path))


def test_a_writer_killed_in_the_middle_leaves_no_checkpoint(tmp_path: Path) -> None:
    code = f"""
import sys, torch
from pathlib import Path
from evomerge.checkpoint.files import staged_folder
from {writer_module.__name__} import CheckpointWriter
with staged_folder(Path(sys.argv[1])) as folder:
    with CheckpointWriter(folder, [("a", "F32", (2,)), ("b", "F32", (2,))]) as writer:
        writer.write("a", 0, torch.zeros(2))
        writer.write("b", 0, torch.zeros(2))
        writer.finish()
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        env={**os.environ, "EVOMERGE_FAULT": "checkpoint.mid-shard@2"},
        check=False,
    )
    assert run.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shard_size", [30, 10**9])
def test_shards_are_digested_as_they_are_written(tmp_path: Path, shard_size: int) -> None:
    with CheckpointWriter(tmp_path, LAYOUT, shard_size=shard_size, ordered=True) as writer:
        for shard in writer.shards:
            for name in shard.offsets:
                writer.write(name, 0, TENSORS[name].flatten())
        writer.finish()
    shards = tmp_path.glob("*.safetensors")
    assert writer.digests == {s.name: sha256(s.read_bytes()).hexdigest() for s in shards}


def test_pieces_out_of_order_leave_no_digest(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, [("t", "F32", (2,))], ordered=True) as writer:
        writer.write("t", 1, torch.zeros(1))
        writer.write("t", 0, torch.zeros(1))
        writer.finish()
    assert writer.digests == {}
