"""Where caches lie, and which digests are taken from them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evomerge.checkpoint.caches import VARIABLE, cache_folder
from evomerge.checkpoint.checkpoint import Checkpoint


@pytest.mark.parametrize(
    ("ours", "xdg", "expected"),
    [
        ("/a", "/b", "/a"),
        ("", "/b", "/b/evomerge"),
        ("", "relative", "/home/me/.cache/evomerge"),
        ("", "", "/home/me/.cache/evomerge"),
    ],
)
def test_ours_comes_before_the_convention(
    monkeypatch: pytest.MonkeyPatch, ours: str, xdg: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv(VARIABLE, ours)
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert cache_folder() == Path(expected)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that nobody has changed for an hour."""
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(3)}, path)
    os.utime(path, ns=(0, path.stat().st_mtime_ns - 3600 * 10**9))
    return path


def test_a_file_is_known_by_a_digest_that_was_computed_before(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "some" / "digests.json"
    with Checkpoint.open(model) as first:
        first.recall(cache)
        assert first.identity("w") is None
        (digest,) = first.digests(cache).values()
    with Checkpoint.open(model) as second:
        second.recall(cache)
        place = f"F32 {second.entry('w').start} 12"
        assert second.identity("w") == f"{place} {digest.blake2b}"


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.utime(path, ns=(0, 1)),
        lambda path: save_file({"w": torch.zeros(4)}, path),
        lambda path: (path.rename(path.with_name("old")), save_file({"w": torch.ones(3)}, path)),
    ],
    ids=["time", "size", "inode"],
)
def test_a_file_that_may_have_changed_is_not_known(
    model: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    cache = tmp_path / "digests.json"
    with Checkpoint.open(model) as first:
        first.digests(cache)
    change(model)
    with Checkpoint.open(model) as second:
        second.recall(cache)
        assert second.identity("w") is None


@pytest.mark.parametrize("text", ["", "[]", '{"KEY": 3}', '{"KEY": {"blake2b": "x"}}'])
def test_a_damaged_cache_knows_nothing(model: Path, tmp_path: Path, text: str) -> None:
    cache = tmp_path / "digests.json"
    cache.write_text(text.replace("KEY", str(model)))
    with Checkpoint.open(model) as checkpoint:
        checkpoint.recall(cache)
        assert checkpoint.identity("w") is None


def test_a_cache_that_cannot_be_written_costs_only_time(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Checkpoint.open(model) as checkpoint:
        assert checkpoint.digests(tmp_path / "file" / "digests.json").keys() == {model.name}
