"""Digests of shards: what a study remembers its inputs by."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.checkpoint.files import write_file
from evomerge.checkpoint.header import opened, parse_header
from evomerge.checkpoint.names import shown
from evomerge.checkpoint.strict_json import JSONProblem, loads
from evomerge.errors import CheckpointError, EvomergeError

_CHUNK = 4 << 20
_READERS = 4
_PIECE, _PIECES = 256, 16  # bytes of each, and how many of a tensor
_SETTLED = 2_000_000_000
"""Nanoseconds; a file changed later than this before its digest may change again unseen."""


class FileState(NamedTuple):
    """What changes when a file's content does: bytes, time of the last change, inode."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class ShardDigest:
    """Size in bytes, and blake2b (256 bits, hex) of all of them."""

    size: int
    blake2b: str


def shard_digests(shards: Mapping[str, Path], cache: Path | None = None) -> dict[str, ShardDigest]:
    """The digest of each file, by its key.

    Args:
        shards: files by the names under which the digests are wanted.
        cache: a JSON file that remembers digests by path, size, time of change and inode. It is
            made and kept up to date; without it, or with a damaged one, files are read again.
    """
    known = _load(cache)
    fresh: dict[str, Any] = {}
    digests = {}
    with ThreadPoolExecutor(_READERS) as pool:  # hashing lets other threads run
        found = pool.map(lambda path: _digest(path, known.get(str(path))), shards.values())
        for (name, path), (digest, record) in zip(shards.items(), found, strict=True):
            digests[name] = digest
            if record is not None and record != known.get(str(path)):
                fresh[str(path)] = record
    if cache is not None and fresh:
        text = json.dumps({**_load(cache), **fresh}, indent=1, sort_keys=True)
        with contextlib.suppress(EvomergeError, OSError):  # no room or no right to: no cache
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_file(cache, text.encode())
    return digests


def sampled_digest(folder: Path) -> str:
    """blake2b (256 bits, hex) of some 16 pieces of each tensor in a folder; all of short ones.

    Other samples are of other weights. The same are of the same or of weights that differ in a few
    entries, which two merges hardly do: a checkpoint of any size is told apart in milliseconds.

    Raises:
        CheckpointError: if a file is damaged.
    """
    digest = hashlib.blake2b(digest_size=32)
    for path in sorted(folder.glob("*.safetensors")):
        with opened(path) as descriptor:
            for name, entry in parse_header(descriptor, path).entries.items():
                digest.update(f"{name!r} {entry.dtype} {entry.shape}".encode())
                step = max(_PIECE, entry.size // _PIECES)
                for start in range(0, entry.size, step):
                    length = min(_PIECE, entry.size - start)
                    digest.update(os.pread(descriptor, length, entry.start + start))
    return digest.hexdigest()


def known_digests(files: Mapping[Path, FileState], cache: Path) -> dict[Path, str]:
    """The digests that a cache has of files in just this state; nothing is read of them."""
    known = _load(cache)
    records = {path: known.get(str(path)) or {} for path in files}
    return {
        path: str(records[path]["blake2b"])
        for path, state in files.items()
        if _is_of(records[path], state)
    }


def file_state(descriptor: int) -> FileState:
    """The state of an open file."""
    found = os.fstat(descriptor)
    return FileState(found.st_size, found.st_mtime_ns, found.st_ino)


def _digest(path: Path, known: Any) -> tuple[ShardDigest, dict[str, Any] | None]:
    """The digest, and what the cache may remember of it (None: changed too recently)."""
    with opened(path) as descriptor:
        state = file_state(descriptor)
        if _is_of(known, state):
            return ShardDigest(state.size, str(known["blake2b"])), known
        asked_at = time.time_ns()
        record = {**state._asdict(), "blake2b": _blake2b(descriptor)}
        if file_state(descriptor) != state:
            raise CheckpointError("changed while it was read", place=shown(path))
    settled = asked_at - state.mtime_ns > _SETTLED
    return ShardDigest(state.size, record["blake2b"]), record if settled else None


def _is_of(record: Any, state: FileState) -> bool:
    """Whether a cache's record is whole, and of a file in this state."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("blake2b"), str)
        and record == {**state._asdict(), "blake2b": record["blake2b"]}
    )


def _blake2b(descriptor: int) -> str:
    digest = hashlib.blake2b(digest_size=32)
    buffer = bytearray(_CHUNK)
    position = 0
    while got := os.preadv(descriptor, [buffer], position):
        digest.update(memoryview(buffer)[:got])
        position += got
    return digest.hexdigest()


def _load(cache: Path | None) -> dict[str, Any]:
    if cache is None:
        return {}
    try:
        known = loads(cache.read_bytes())
    except (OSError, JSONProblem):
        return {}
    return known if isinstance(known, dict) else {}
