"""Direct reads give the same bytes as plain ones, or leave them to these."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from evomerge.checkpoint import cold
from evomerge.checkpoint.cold import ALIGNED, REQUEST_BYTES, ColdReads
from evomerge.checkpoint.shard import Shard
from evomerge.errors import CheckpointError

SIZE = 2 * REQUEST_BYTES + 3 * ALIGNED + 7


@pytest.fixture(autouse=True)
def nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the page cache holds just now."""
    monkeypatch.setattr(ColdReads, "_cached", lambda self, offset: self._map is None)


@pytest.fixture(params=["disk", "memory"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Three requests long and no whole number of sectors, on two kinds of file system."""
    path = tmp_path / "model.safetensors"
    if request.param == "memory":
        if not os.access("/dev/shm", os.W_OK):
            pytest.skip("no file system in memory here")
        path = Path(f"/dev/shm/evomerge-{os.getpid()}.safetensors")
    save_file({"w": np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)}, path)
    yield path
    path.unlink()


def read(shard: Shard, start: int, length: int) -> bytes:
    buffer = np.zeros(length, np.uint8)
    shard.read_into(buffer.data, start, streamed=True)
    return buffer.tobytes()


def spans(size: int) -> list[tuple[int, int]]:
    """First byte and length."""
    ends = [(size - 1, 1), (size - ALIGNED, ALIGNED), (size - 9, 9), (0, size)]
    return [(0, 0), (0, 1), (ALIGNED - 1, 2), (ALIGNED, ALIGNED), (123, REQUEST_BYTES), *ends]


@pytest.mark.parametrize("refused", [False, True])
def test_direct_and_plain_reads_give_the_same_bytes(
    file: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    content, shard, preadv = file.read_bytes(), Shard(file), os.preadv

    def plain_only(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if descriptor != shard._descriptor:
            raise OSError(errno.EINVAL, "not in this way")
        return preadv(descriptor, buffers, offset)

    if refused:
        monkeypatch.setattr(os, "preadv", plain_only)
    for start, length in spans(len(content)):
        assert read(shard, start, length) == content[start : start + length]
    shard.close()


def test_one_read_is_direct_from_its_first_byte_to_its_last(file: Path) -> None:
    content, buffer = file.read_bytes(), bytearray(SIZE - 11)
    descriptor = os.open(file, os.O_RDONLY)
    reads = ColdReads(file, descriptor)
    done = reads.read(memoryview(buffer), 11)
    assert done == (len(buffer) if reads._map is not None else 0)
    assert buffer[:done] == content[11 : 11 + done]
    reads.close()
    os.close(descriptor)


def test_what_a_short_read_leaves_is_read_plainly(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, shard, preadv = file.read_bytes(), Shard(file), os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda d, b, o: preadv(d, [b[0][: max(1, len(b[0]) // 2)]], o)
    )
    assert read(shard, 100, SIZE - 100) == content[100:SIZE]
    shard.close()


def test_a_file_that_shrank_is_an_error(file: Path) -> None:
    shard = Shard(file)
    os.truncate(file, ALIGNED)
    with pytest.raises(CheckpointError, match="shorter"):
        read(shard, 0, SIZE)
    shard.close()


def test_without_mincore_all_counts_as_cached(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "_MINCORE", None)
    with file.open("rb") as opened:
        reads = ColdReads(file, opened.fileno())
        assert reads.read(memoryview(bytearray(10)), 0) == 0
        reads.close()
