"""The header of a safetensors file, read without trusting a byte of it.

A file is an 8-byte little-endian length, that many bytes of JSON, and the tensors' bytes::

    {"__metadata__": {"format": "pt"},
     "name": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}

Beyond what the safetensors library checks, duplicate names are refused. Nothing is allocated that
the file's size does not justify, and numbers in tensors are not looked at.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evomerge.checkpoint.dtypes import DTYPES, FLOATS
from evomerge.checkpoint.names import quoted, shown
from evomerge.checkpoint.strict_json import Cursor, JSONProblem, decoded
from evomerge.errors import CheckpointError

LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""

MOST_TENSORS = 1_000_000
"""Per file. Five times the largest known checkpoint; about 500 MB of Python objects."""

MOST_DIMENSIONS = 64
"""The limit of torch and numpy."""

LONGEST_ENTRY = 4096
"""Characters of one tensor's dtype, shape and offsets."""

_METADATA = "__metadata__"
_KEYS = {"dtype", "shape", "data_offsets"}
_LARGEST = 2**63 - 1
_ADVICE = "the file is damaged or incomplete; download it again"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies.

    Attributes:
        name: as the header says it, possibly hostile: show it through `names.shown`.
        dtype: safetensors word, a key of `dtypes.DTYPES`.
        shape: () for a single number.
        shard: the file.
        start: offset of the first byte from the start of the file.
        size: in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Path
    start: int
    size: int

    @property
    def count(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether the tensor takes part in merges."""
        return self.dtype in FLOATS


@dataclass(frozen=True, slots=True)
class Header:
    """Tensors by name, in the order of their bytes, and the file's own words about itself."""

    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of one safetensors file.

    Raises:
        CheckpointError: the file is missing, not regular, damaged or hostile.
    """
    with opened(path) as descriptor:
        return parse_header(descriptor, path)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a regular file; devices, pipes and folders are refused without reading."""
    descriptor = open_regular(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> int:
    """Open for reading; O_NONBLOCK keeps a pipe from stopping us before it is refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"cannot be opened: {reason}", place=shown(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError("is not a regular file", place=shown(path))
    return descriptor


def parse_header(descriptor: int, path: Path) -> Header:
    """`read_header` on an open file; `path` is what the entries and the messages name."""
    try:
        text, data_start, file_size = _header_text(descriptor)
        entries, metadata = _members(text, path, data_start, file_size)
        _check_cover(entries, data_start, file_size)
    except JSONProblem as problem:
        raise CheckpointError(f"header: {problem}; {_ADVICE}", place=shown(path)) from None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", place=shown(path)) from error
    by_name = {entry.name: entry for entry in entries}
    return Header(MappingProxyType(by_name), MappingProxyType(metadata))


def _header_text(descriptor: int) -> tuple[str, int, int]:
    """The JSON text, the offset of the first tensor byte, and the file's size."""
    file_size = os.fstat(descriptor).st_size
    prefix = os.pread(descriptor, 8, 0)
    if len(prefix) < 8:
        raise JSONProblem(f"the file has {len(prefix)} bytes, too few for a safetensors file")
    length = int.from_bytes(prefix, "little")
    if length > file_size - 8:
        raise JSONProblem(
            f"it should be {length} bytes long, but only {file_size - 8} follow its length"
        )
    if length > LONGEST_HEADER:
        raise JSONProblem(f"it is {length} bytes long; at most {LONGEST_HEADER} are allowed")
    data = os.pread(descriptor, length, 8)
    if len(data) < length:
        raise JSONProblem("the file became shorter while it was read")
    return decoded(data), 8 + length, file_size


def _members(
    text: str, path: Path, data_start: int, file_size: int
) -> tuple[list[TensorEntry], dict[str, str]]:
    """The tensors in the order of their bytes, and the metadata."""
    cursor = Cursor(text)
    if cursor.at or not text:
        raise JSONProblem("it does not start with '{'")
    entries: dict[str, TensorEntry] = {}
    metadata: dict[str, str] | None = None
    for name in cursor.members():
        if name in entries or (name == _METADATA and metadata is not None):
            raise JSONProblem(f"the tensor name {quoted(name)} occurs twice")
        if name == _METADATA:
            metadata = _metadata(cursor)
        else:
            raw = cursor.small_object(LONGEST_ENTRY)
            entries[name] = _entry(name, raw, path, data_start, file_size)
        if len(entries) > MOST_TENSORS:
            raise JSONProblem(f"it names more than {MOST_TENSORS} tensors")
    cursor.end()
    return sorted(entries.values(), key=lambda entry: (entry.start, entry.size)), metadata or {}


def _metadata(cursor: Cursor) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for key in cursor.members():
        if key in metadata:
            raise JSONProblem(f"the metadata key {quoted(key)} occurs twice")
        metadata[key] = cursor.string()
    return metadata


def _entry(name: str, raw: Any, path: Path, data_start: int, file_size: int) -> TensorEntry:
    """One tensor, its numbers checked against each other and against the file's size."""
    if not isinstance(raw, dict) or raw.keys() != _KEYS:
        raise _wrong(name, "must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _wrong(name, f"has the dtype {quoted(dtype)}, which is unknown here")
    if not _naturals(shape) or not _storable(shape):
        raise _wrong(name, f"has the shape {shown(shape)}, which no tensor can have")
    if not _naturals(offsets) or len(offsets) != 2:
        raise _wrong(name, f"has the offsets {shown(offsets)}, which are no two places in a file")
    begin, end = offsets
    held = file_size - data_start
    if not begin <= end <= held:
        raise _wrong(name, f"should lie at bytes {begin} to {end} of the {held} that are there")
    if math.prod(shape) * DTYPES[dtype].size != end - begin:
        raise _wrong(name, f"of shape {shown(shape)} in {dtype} is not {end - begin} bytes long")
    return TensorEntry(name, dtype, tuple(shape), path, data_start + begin, end - begin)


def _naturals(values: Any) -> bool:
    """Whether this is a list of whole numbers from 0 on."""
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)


def _storable(shape: list[int]) -> bool:
    """Whether an int64 holds the number of entries, even with the zeros left out, as in torch."""
    return len(shape) <= MOST_DIMENSIONS and math.prod(filter(None, shape)) <= _LARGEST


def _wrong(name: str, what: str) -> JSONProblem:
    return JSONProblem(f"tensor {quoted(name)} {what}")


def _check_cover(entries: list[TensorEntry], data_start: int, file_size: int) -> None:
    """Tensors must lie side by side and fill the file: no overlap, no hole, no rest."""
    position = data_start
    for entry in entries:
        if entry.start != position:
            kind = "overlaps the tensor before it" if entry.start < position else "leaves a hole"
            raise _wrong(entry.name, f"{kind} at byte {min(entry.start, position)}")
        position += entry.size
    if position != file_size:
        raise JSONProblem(f"{file_size - position} bytes follow the last tensor")
