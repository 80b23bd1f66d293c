"""Tensors are read bit for bit, in pieces, by many threads, and never from a changed file."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import CheckpointError

TENSORS = {
    "matrix": torch.randn(3, 5, generator=torch.Generator().manual_seed(1)),
    "half": torch.tensor([1.5, -0.0, float("nan"), float("inf")]).half(),
    "brain": torch.tensor([[1.0], [2.0]]).bfloat16(),
    "double": torch.tensor([1e300, 5e-324], dtype=torch.float64),
    "number": torch.tensor(3),
    "empty": torch.zeros(0, 4),
    "mask": torch.tensor([True, False, True]),
    "tiny": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
    "odd": torch.tensor([7], dtype=torch.uint8),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"format": "pt"})
    return tmp_path / "x.safetensors"


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    bits = [t.reshape(-1).contiguous().view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


def test_tensors_are_what_the_safetensors_library_reads(path: Path) -> None:
    theirs = load_file(path)
    with Checkpoint.open(path) as checkpoint:
        assert set(checkpoint.tensors) == set(theirs)
        for name, tensor in theirs.items():
            assert same_bits(checkpoint.tensor(name), tensor), name


def test_a_slice_is_flat_and_may_reuse_a_buffer(path: Path) -> None:
    flat = TENSORS["matrix"].flatten()
    buffer = torch.full((10,), -1.0)
    with Checkpoint.open(path) as checkpoint:
        assert torch.equal(checkpoint.read("matrix", 2, 9), flat[2:9])
        assert torch.equal(checkpoint.read("matrix", 14), flat[14:])
        assert checkpoint.read("matrix", 15).numel() == 0
        piece = checkpoint.read("matrix", 2, 9, out=buffer)
        checkpoint.read("matrix", 0, 1, out=torch.zeros(2)[::2])
    assert piece.data_ptr() == buffer.data_ptr()
    assert torch.equal(buffer, torch.cat([flat[2:9], torch.full((3,), -1.0)]))


def test_tensors_at_odd_offsets_are_read(tmp_path: Path) -> None:
    """The format allows them; a memory map would trip over them."""
    header = (
        b'{"o":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}'
    )
    data = b"\x07" + torch.tensor([0.5]).numpy().tobytes()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    with Checkpoint.open(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.tensor("f").tolist() == [0.5]


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 16), (16, None)])
def test_ranges_outside_the_tensor_are_refused(path: Path, start: int, stop: int | None) -> None:
    with Checkpoint.open(path) as checkpoint, pytest.raises(CheckpointError, match="which has 15"):
        checkpoint.read("matrix", start, stop)


@pytest.mark.parametrize(
    "buffer",
    [
        torch.zeros(14),
        torch.zeros(15, dtype=torch.float64),
        torch.zeros(3, 5),
        torch.zeros(30)[::2],
    ],
    ids=["short", "dtype", "shape", "gaps"],
)
def test_buffers_that_do_not_fit_are_refused(path: Path, buffer: torch.Tensor) -> None:
    with Checkpoint.open(path) as checkpoint, pytest.raises(CheckpointError, match="no room"):
        checkpoint.read("matrix", out=buffer)


def test_an_unknown_tensor_is_refused(path: Path) -> None:
    with Checkpoint.open(path) as checkpoint, pytest.raises(CheckpointError, match="no tensor 'm'"):
        checkpoint.tensor("m")


def test_a_bare_file_has_no_config_and_no_side_files(path: Path) -> None:
    with Checkpoint.open(str(path)) as checkpoint:
        assert checkpoint.config() is None
        assert checkpoint.side_files() == ()
        assert checkpoint.metadata == {"x.safetensors": {"format": "pt"}}


def test_threads_read_at_the_same_time(tmp_path: Path) -> None:
    tensor = torch.arange(100_000)
    save_file({"t": tensor}, tmp_path / "x.safetensors")
    with Checkpoint.open(tmp_path / "x.safetensors") as checkpoint, ThreadPoolExecutor(8) as pool:
        pieces = pool.map(lambda i: checkpoint.read("t", i, i + 1000), range(0, 100_000, 1000))
        assert torch.equal(torch.cat(list(pieces)), tensor)


def test_a_file_that_shrinks_is_an_error_and_not_the_end_of_the_process(path: Path) -> None:
    with Checkpoint.open(path) as checkpoint:
        os.truncate(path, 400)
        with pytest.raises(CheckpointError, match="shorter"):
            [checkpoint.tensor(name) for name in checkpoint.tensors]


def test_a_file_that_is_written_to_is_an_error(path: Path) -> None:
    with Checkpoint.open(path) as checkpoint:
        checkpoint.tensor("matrix")
        os.utime(path, ns=(1, 1))
        with pytest.raises(CheckpointError, match="was changed"):
            checkpoint.tensor("matrix")


def test_a_file_that_is_replaced_by_rename_is_still_the_old_one(path: Path, tmp_path: Path) -> None:
    with Checkpoint.open(path) as checkpoint:
        save_file({"matrix": torch.zeros(3, 5)}, tmp_path / "new")
        (tmp_path / "new").replace(path)
        assert torch.equal(checkpoint.tensor("matrix"), TENSORS["matrix"])


def test_a_closed_checkpoint_says_so(path: Path) -> None:
    checkpoint = Checkpoint.open(path)
    checkpoint.close()
    checkpoint.close()
    with pytest.raises(CheckpointError, match="is closed"):
        checkpoint.tensor("matrix")


def test_a_refused_folder_leaves_no_file_open(path: Path) -> None:
    (path.parent / "x.safetensors.index.json").write_text('{"weight_map":{"a":"x.safetensors"}}')
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(CheckpointError):
            Checkpoint.open(path.parent)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
