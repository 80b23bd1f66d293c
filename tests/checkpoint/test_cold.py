"""Direct reads give the same bytes as plain ones, or leave them to these."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from evomerge.checkpoint import cold
from evomerge.checkpoint.cold import REQUEST_BYTES, SECTOR_BYTES, read_directly
from evomerge.checkpoint.shard import Shard
from evomerge.errors import CheckpointError

SIZE = REQUEST_BYTES + 3 * SECTOR_BYTES + 7
MAPS = Path("/proc/self/maps")


class Request(NamedTuple):
    """What preadv was asked for by a direct descriptor."""

    address: int
    offset: int
    length: int


@pytest.fixture(params=["disk", "memory"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Longer than one request and no whole number of sectors, on two kinds of file system."""
    path = tmp_path / "model.safetensors"
    if request.param == "memory":
        if not os.access("/dev/shm", os.W_OK):
            pytest.skip("no file system in memory here")
        path = Path(f"/dev/shm/evomerge-{os.getpid()}.safetensors")
    save_file({"w": np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)}, path)
    yield path
    path.unlink()


@pytest.fixture
def nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the page cache holds just now."""
    monkeypatch.setattr(cold, "_cached", lambda descriptor, offset: False)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, nothing_cached: None) -> list[Request]:
    """Made by descriptors that count as direct and are plain, so every file system has them."""
    made: list[Request] = []
    direct: set[int] = set()
    preadv = os.preadv

    def opened(path: Path, descriptor: int) -> int:
        direct.add(descriptor := os.open(path, os.O_RDONLY))
        return descriptor

    def read(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if descriptor in direct:
            address = np.frombuffer(buffers[0], np.uint8).ctypes.data
            made.append(Request(address, offset, len(buffers[0])))
            direct.discard(descriptor)  # it is closed next, and its number used again
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(cold, "_opened_direct", opened)
    monkeypatch.setattr(os, "preadv", read)
    return made


def read(shard: Shard, start: int, length: int) -> bytes:
    buffer = np.zeros(length, np.uint8)
    shard.read_into(buffer.data, start, once=True)
    return buffer.tobytes()


def spans(size: int) -> list[tuple[int, int]]:
    """First byte and length, of at most one request."""
    ends = [(size - 1, 1), (size - SECTOR_BYTES, SECTOR_BYTES), (size - 9, 9)]
    middle = [(SECTOR_BYTES - 1, 2), (SECTOR_BYTES, SECTOR_BYTES), (123, REQUEST_BYTES)]
    return [(0, 1), (0, REQUEST_BYTES), *middle, *ends]


def test_every_byte_comes_by_one_aligned_request(file: Path, requests: list[Request]) -> None:
    content = file.read_bytes()
    with file.open("rb") as opened:
        for start, length in spans(len(content)):
            buffer = bytearray(length)
            assert read_directly(file, opened.fileno(), memoryview(buffer), start) == length
            assert buffer == content[start : start + length]
            (request,) = requests
            assert all(number % SECTOR_BYTES == 0 for number in request)
            assert request.offset <= start and request.length >= length
            requests.clear()
        assert read_directly(file, opened.fileno(), memoryview(b""), 0) == 0
    assert not requests


def test_the_rest_of_a_long_read_is_plain(file: Path, requests: list[Request]) -> None:
    content, shard = file.read_bytes(), Shard(file)
    assert read(shard, 11, len(content) - 11) == content[11:]
    assert len(requests) == 1
    shard.close()


def test_only_what_is_read_once_is_read_directly(file: Path, requests: list[Request]) -> None:
    shard, buffer = Shard(file), np.zeros(100, np.uint8)
    shard.read_into(buffer.data, 0)
    assert not requests
    shard.close()


@pytest.mark.parametrize("refused", ["no", "when opened", "when read"])
def test_direct_and_plain_reads_give_the_same_bytes(
    file: Path, monkeypatch: pytest.MonkeyPatch, nothing_cached: None, refused: str
) -> None:
    content, shard, preadv = file.read_bytes(), Shard(file), os.preadv

    def plain_only(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if descriptor != shard._descriptor:
            raise OSError(errno.EINVAL, "not in this way")
        return preadv(descriptor, buffers, offset)

    if refused == "when opened":
        monkeypatch.setattr(cold, "_opened_direct", lambda path, descriptor: None)
    if refused == "when read":
        monkeypatch.setattr(os, "preadv", plain_only)
    for start, length in [(0, 0), *spans(len(content)), (0, len(content))]:
        assert read(shard, start, length) == content[start : start + length]
    shard.close()


def test_an_error_is_of_one_request_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch, requests: list[Request]
) -> None:
    content, shard, opened = file.read_bytes(), Shard(file), cold._opened_direct
    monkeypatch.setattr(cold, "_opened_direct", lambda path, descriptor: None)
    assert read(shard, 0, 100) == content[:100] and not requests
    monkeypatch.setattr(cold, "_opened_direct", opened)
    assert read(shard, 0, 100) == content[:100] and len(requests) == 1
    shard.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of descriptors")
def test_nothing_stays_open(file: Path, nothing_cached: None) -> None:
    shard = Shard(file)
    read(shard, 0, SIZE)
    linked = (os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir())
    assert list(linked).count(str(file)) == 1
    shard.close()


def test_what_a_short_read_leaves_is_read_plainly(
    file: Path, monkeypatch: pytest.MonkeyPatch, nothing_cached: None
) -> None:
    content, shard, preadv = file.read_bytes(), Shard(file), os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda d, b, o: preadv(d, [b[0][: max(1, len(b[0]) // 2)]], o)
    )
    assert read(shard, 100, SIZE - 100) == content[100:SIZE]
    shard.close()


def test_a_file_that_shrank_is_an_error(file: Path, nothing_cached: None) -> None:
    shard = Shard(file)
    os.truncate(file, SECTOR_BYTES)
    with pytest.raises(CheckpointError, match="shorter"):
        read(shard, 0, SIZE)
    shard.close()


def mapped(address: int) -> tuple[str, int]:
    """The file that is mapped from this address on, and its first byte there."""
    for line in MAPS.read_text().splitlines():
        area, _, offset, _, _, *path = line.split(maxsplit=5)
        if int(area.split("-")[0], 16) == address and path:
            return path[0], int(offset, 16)
    raise AssertionError(f"nothing is mapped from {address:#x} on")


@pytest.mark.skipif(not MAPS.exists(), reason="no list of maps")
@pytest.mark.parametrize(
    ("status", "answer", "direct"), [(0, 0, True), (0, 1, False), (-1, 0, False)]
)
def test_mincore_is_asked_about_the_page_in_the_middle(
    file: Path, monkeypatch: pytest.MonkeyPatch, status: int, answer: int, direct: bool
) -> None:
    asked: list[tuple[str, int]] = []

    def mincore(address: int, length: int, found: Any) -> int:
        assert length == 1
        asked.append(mapped(address))
        found._obj.value = answer
        return status

    monkeypatch.setattr(cold, "_MINCORE", mincore)
    monkeypatch.setattr(cold, "_opened_direct", lambda path, descriptor: os.dup(descriptor))
    first, length = 3 * mmap.PAGESIZE - 5, 4 * mmap.PAGESIZE
    with file.open("rb") as opened:
        done = read_directly(file, opened.fileno(), memoryview(bytearray(length)), first)
    assert done == (length if direct else 0)
    assert asked == [(str(file), 4 * mmap.PAGESIZE)]


def test_without_mincore_or_past_the_end_all_counts_as_cached(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with file.open("rb") as opened:
        assert cold._cached(opened.fileno(), 2 * file.stat().st_size)
        monkeypatch.setattr(cold, "_MINCORE", None)
        assert cold._cached(opened.fileno(), 0)
