"""Digests of shards, and the cache that spares reading them again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from evomerge.checkpoint import digests as module
from evomerge.checkpoint.digests import ShardDigest, sampled_digest, shard_digests
from evomerge.errors import CheckpointError

HOUR = 3600 * 10**9


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "shard"
    path.write_bytes(b"weights")
    age(path)
    return path


def age(path: Path, ago: int = HOUR) -> None:
    found = path.stat().st_mtime_ns - ago
    os.utime(path, ns=(found, found))


def blake2b(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def test_a_digest_is_blake2b_of_all_bytes(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 2)
    assert shard_digests({"s": shard}) == {"s": ShardDigest(7, blake2b(b"weights"))}


def test_an_unchanged_file_is_not_read_again(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache.json"
    first = shard_digests({"s": shard}, cache)

    def never(descriptor: int) -> str:
        pytest.fail("it was read again")

    monkeypatch.setattr(module, "_blake2b", never)
    assert shard_digests({"s": shard}, cache) == first


def test_a_changed_file_is_read_again(shard: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    shard_digests({"s": shard}, cache)
    shard.write_bytes(b"WEIGHTS")  # the same size
    assert shard_digests({"s": shard}, cache)["s"].blake2b == blake2b(b"WEIGHTS")


def test_a_file_changed_just_now_is_not_remembered(shard: Path, tmp_path: Path) -> None:
    """Within one tick of the clock it could change again and look the same."""
    cache = tmp_path / "cache.json"
    os.utime(shard)
    shard_digests({"s": shard}, cache)
    assert not cache.exists()


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b'{"a":NaN}'])
def test_a_damaged_cache_is_made_anew(shard: Path, tmp_path: Path, text: bytes) -> None:
    cache = tmp_path / "cache.json"
    cache.write_bytes(text)
    assert shard_digests({"s": shard}, cache)["s"].blake2b == blake2b(b"weights")
    assert str(shard) in json.loads(cache.read_text())


@pytest.mark.parametrize("record", [None, 7, {}, {"blake2b": "00"}, {"size": 7, "blake2b": 1}])
def test_a_damaged_record_is_made_anew(shard: Path, tmp_path: Path, record: object) -> None:
    cache = tmp_path / "cache.json"
    cache.write_text(json.dumps({str(shard): record, "other": {"kept": 1}}))
    assert shard_digests({"s": shard}, cache)["s"].blake2b == blake2b(b"weights")
    assert json.loads(cache.read_text())["other"] == {"kept": 1}


def test_a_file_that_changes_under_the_reader_is_an_error(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(descriptor: int) -> str:
        shard.write_bytes(b"longer than before")
        return ""

    monkeypatch.setattr(module, "_blake2b", slow)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        shard_digests({"s": shard})


def test_samples_are_of_every_tensor(tmp_path: Path) -> None:
    long, short = np.ones(20_000, "f4"), np.ones(300, "f4")

    def sampled(**tensors: np.ndarray) -> str:
        save_file(tensors, tmp_path / "model.safetensors")
        return sampled_digest(tmp_path)

    first = sampled(long=long, short=short, empty=long[:0])
    assert sampled(long=long, short=short, empty=long[:0]) == first
    last = short.copy()
    last[-1] = 2
    others = [
        sampled(long=1.5 * long, short=short, empty=long[:0]),
        sampled(long=np.where(np.arange(20_000) < 10_000, long, 2), short=short, empty=long[:0]),
        sampled(long=long, short=last, empty=long[:0]),
        sampled(long=long, other=short, empty=long[:0]),
    ]
    assert len({first, *others}) == 5
