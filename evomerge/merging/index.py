"""The tables of magnitudes that were counted before: in memory, and on disk for other processes.

A table on disk has the name of what it was counted from: the digests of the base's and the model's
shard, the tensor's place in each, and the rule. Path, size and times do not name a content, so they
are no key; a digest costs more than counting, so none is computed for this: `Checkpoint.identity`
gives those that somebody had to compute anyway, and without one the table stays in memory. Files
appear by rename and carry their own digest: deleted, damaged or cut ones are counted anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evomerge.checkpoint.files import PART, sweep
from evomerge.checkpoint.process import this_process
from evomerge.merging.magnitudes import CODES, MagnitudeTable

RULE = "float32 model - base, magnitude >> 16, 1"
"""What is counted, and how it is written down; another one has other files."""

MEMORY_BYTES = 128_000_000
"""What tables may take in memory; beyond that they are read or counted anew each time."""

WORTH_A_FILE = 2**16
"""Entries of a tensor whose count takes longer than reading a file."""

_MAGIC = b"evomerge magnitudes\n"
_DIGEST_SIZE = 32
_HEAD = struct.Struct("<QIB")  # entries of the tensor, codes, bytes of each number


class VectorKey(NamedTuple):
    """One tensor's task vector.

    Attributes:
        tensor: its name.
        model: the model's name.
        entries: how many it has.
        base, source: the tensor's identity in base and model; None where it is not known.
    """

    tensor: str
    model: str
    entries: int
    base: str | None
    source: str | None


class MagnitudeIndex:
    """Tables by tensor and model. Threads may use it at the same time.

    Args:
        folder: of the tables on disk; need not exist; None keeps them in memory only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._swept = False
        self._tables: dict[tuple[str, str], MagnitudeTable] = {}
        self._bytes = 0

    def held(self, tensor: str, model: str) -> MagnitudeTable | None:
        """The table of a tensor's task vector, if it is in memory."""
        return self._tables.get((tensor, model))

    def find(self, vector: VectorKey) -> MagnitudeTable | None:
        """The table of a tensor's task vector; None if it must be counted."""
        table = self.held(*vector[:2])
        if table is not None:
            return table
        place = self._place(vector)
        table = None if place is None else _load(place, vector.entries)
        if table is not None:
            self._remember(vector, table)
        return table

    def add(self, vector: VectorKey, table: MagnitudeTable) -> None:
        """Keep a table that was counted; a disk that is full or read-only is passed over."""
        self._remember(vector, table)
        place = self._place(vector)
        if place is not None:
            with contextlib.suppress(OSError):
                self._write(place, _packed(table))

    def _remember(self, vector: VectorKey, table: MagnitudeTable) -> None:
        if vector[:2] not in self._tables and self._bytes + table.size <= MEMORY_BYTES:
            self._tables[vector[:2]] = table
            self._bytes += table.size

    def _place(self, vector: VectorKey) -> Path | None:
        if self._folder is None or vector.entries < WORTH_A_FILE:
            return None
        if vector.base is None or vector.source is None:
            return None
        text = json.dumps([RULE, vector.base, vector.source])
        key = hashlib.blake2b(text.encode(), digest_size=20).hexdigest()
        return self._folder / key[:2] / key

    def _write(self, place: Path, data: bytes) -> None:
        """By rename, not flushed: what a power cut leaves of it does not pass for a table."""
        folder = place.parents[1]
        place.parent.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            self._swept = True
            sweep(folder)
        temporary = folder / f".{place.name[:8]}.{this_process()}.{secrets.token_hex(4)}{PART}"
        try:
            temporary.write_bytes(data)
            temporary.replace(place)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def _packed(table: MagnitudeTable) -> bytes:
    head = _HEAD.pack(table.count, len(table.codes), table.reached.itemsize)
    body = head + table.codes.tobytes() + table.reached.tobytes()
    return _MAGIC + _digest(body) + body


def _load(place: Path, count: int) -> MagnitudeTable | None:
    """The table in a file; None unless it is whole and of a tensor with this many entries."""
    try:
        data = place.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + _DIGEST_SIZE
    body = data[start:]
    if len(body) < _HEAD.size or data[:start] != _MAGIC + _digest(body):
        return None
    entries, codes, width = _HEAD.unpack_from(body)
    if entries != count or codes >= CODES or width not in (4, 8):
        return None
    if len(body) != _HEAD.size + codes * (2 + width):
        return None
    kind = np.dtype(np.uint32 if width == 4 else np.int64)
    middle = _HEAD.size + 2 * codes
    return MagnitudeTable(
        np.frombuffer(body[_HEAD.size : middle], np.uint16),
        np.frombuffer(body[middle:], kind),
        count,
    )


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_SIZE).digest()
