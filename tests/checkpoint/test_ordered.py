"""Bytes in their order reach the disk whole, with their digest, directly or not."""

from __future__ import annotations

import errno
import os
from hashlib import sha256
from pathlib import Path

import pytest

from evomerge.checkpoint import ordered
from evomerge.checkpoint.ordered import OrderedFile


def written(path: Path, data: bytes, step: int) -> str | None:
    """The digest that the file says it has."""
    path.write_bytes(b"")
    descriptor = os.open(path, os.O_WRONLY)
    file = OrderedFile(path, descriptor, len(data))
    for start in range(0, len(data), step):
        file.add(memoryview(data)[start : start + step])
    file.close()
    os.close(descriptor)
    return file.sha256


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 8192, 3 * 4096 + 7])
@pytest.mark.parametrize("step", [100, 4096, 10**6])
@pytest.mark.parametrize("direct", ["yes", "no flag", "refused"])
def test_what_is_added_is_what_the_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, step: int, direct: str
) -> None:
    monkeypatch.setattr(ordered, "BUFFER_BYTES", 4096)
    if direct == "no flag":
        monkeypatch.delattr(os, "O_DIRECT", raising=False)
    if direct == "refused":
        monkeypatch.setattr(ordered, "_opened_direct", lambda path: os.open(path, os.O_RDONLY))
        monkeypatch.setattr(ordered, "_NOT_DIRECT", {errno.EBADF})
    data = os.urandom(size)
    assert written(tmp_path / "file", data, step) == sha256(data).hexdigest()
    assert (tmp_path / "file").read_bytes() == data


def test_an_error_of_a_write_is_told_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(ordered, "BUFFER_BYTES", 4096)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        written(tmp_path / "file", bytes(3 * 4096), 100)
