"""Writes checkpoints piece by piece, in any order, with no tensor held in memory."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from evomerge.checkpoint.checkpoint import bytes_of
from evomerge.checkpoint.dtypes import DTYPES, torch_dtype
from evomerge.checkpoint.files import explained, write_file
from evomerge.checkpoint.layout import (
    SHARD_SIZE,
    ShardPlan,
    TensorPlan,
    checked_layout,
    index_json,
    plan_shards,
)
from evomerge.checkpoint.names import quoted, shown
from evomerge.errors import CheckpointError
from evomerge.faults import reach

if TYPE_CHECKING:
    import torch

_CANNOT_RESERVE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


class CheckpointWriter:
    """Shards and their index, in a folder that `files.staged_folder` gave.

    Files have their full size from the start, so a full disk is noticed before the work. Threads
    may write at the same time. `finish` must be called: it makes sure that nothing is missing.

    Args:
        folder: exists, and holds no shards.
        layout: name, safetensors dtype word and shape of each tensor, in the order of the files.
        shard_size: bytes of tensors per shard; a larger tensor has a shard of its own.
        metadata: words for each header, beside ``{"format": "pt"}``.
        digests: compute the shards' digests from pieces that come in the order of the bytes, one
            at a time.

    Raises:
        CheckpointError: the layout names a tensor twice, or an unknown dtype.
        DiskFullError: there is no room for the files.
        StudyError: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        layout: Iterable[tuple[str, str, tuple[int, ...]]],
        *,
        shard_size: int = SHARD_SIZE,
        metadata: Mapping[str, str] | None = None,
        digests: bool = False,
    ) -> None:
        self.folder = folder
        self._tensors = checked_layout(layout)
        self.shards = plan_shards(self._tensors, shard_size=shard_size, metadata=metadata)
        self._plans = {plan.name: plan for plan in self._tensors}
        self._places = {name: shard for shard in self.shards for name in shard.offsets}
        self._written: dict[str, list[tuple[int, int]]] = {name: [] for name in self._plans}
        self._lock = threading.Lock()
        self._descriptors: dict[str, int] = {}
        self._followed = {s.name: _Follower(s.head) for s in self.shards} if digests else {}
        try:
            for shard in self.shards:
                self._create(shard)
        except BaseException:
            self.close()
            raise

    def write(self, name: str, start: int, piece: torch.Tensor) -> None:
        """Write entries of a tensor.

        Args:
            name: of the tensor.
            start: the first entry's place in the flattened tensor.
            piece: of the tensor's dtype; its entries in order, without a copy when they lie so,
                on the CPU.

        Raises:
            CheckpointError: there is no such tensor, the piece does not fit, or a part of it was
                written before.
            DiskFullError: there is no space.
        """
        plan = self._checked(name, start, piece)
        if piece.numel() == 0:
            return
        self._claim(plan, start, start + piece.numel())
        shard = self._places[name]
        offset = shard.offsets[name] + start * DTYPES[plan.dtype].size
        with explained(self.folder / shard.name):
            data = bytes_of(piece.detach().cpu().contiguous())
            _write_all(self._descriptors[shard.name], data, offset)
        if shard.name in self._followed:
            self._followed[shard.name].add(offset, data)
        reach("checkpoint.mid-shard")

    def finish(self) -> None:
        """Check that every entry was written, flush the shards to the disk, write the index.

        Raises:
            CheckpointError: entries are missing.
        """
        for plan in self._tensors:
            if plan.entries and self._written[plan.name] != [(0, plan.entries)]:
                done = sum(stop - start for start, stop in self._written[plan.name])
                raise self._refused(
                    f"of tensor {quoted(plan.name)} {done} of {plan.entries} entries were written"
                )
        for name, descriptor in self._descriptors.items():
            with explained(self.folder / name):
                os.fsync(descriptor)
        self.close()
        if len(self.shards) > 1:
            write_file(self.folder / "model.safetensors.index.json", index_json(self.shards))

    @property
    def digests(self) -> dict[str, str]:
        """blake2b (512 bits, hex) of the shards whose every byte went by in order, by name."""
        ends = {shard.name: shard.size for shard in self.shards}
        followed = self._followed.items()
        return {n: f.blake2b.hexdigest() for n, f in followed if f.position == ends[n]}

    def close(self) -> None:
        """Close the files as they are."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _create(self, shard: ShardPlan) -> None:
        path = self.folder / shard.name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with explained(path):
            self._descriptors[shard.name] = os.open(path, flags, 0o666)  # less the umask
            _preallocate(self._descriptors[shard.name], shard.size)
            _write_all(self._descriptors[shard.name], memoryview(shard.head), 0)

    def _checked(self, name: str, start: int, piece: torch.Tensor) -> TensorPlan:
        plan = self._plans.get(name)
        if plan is None:
            raise self._refused(f"the layout has no tensor {quoted(name)}")
        if piece.dtype != torch_dtype(plan.dtype):
            raise self._refused(f"tensor {quoted(name)} is {plan.dtype}, the piece {piece.dtype}")
        if not 0 <= start <= start + piece.numel() <= plan.entries:
            raise self._refused(
                f"entries {start} to {start + piece.numel()} of tensor {quoted(name)}, "
                f"which has {plan.entries}"
            )
        return plan

    def _claim(self, plan: TensorPlan, start: int, stop: int) -> None:
        """Note the entries as written; neighbouring pieces become one."""
        with self._lock:
            pieces = self._written[plan.name]
            if any(start < end and begin < stop for begin, end in pieces):
                raise self._refused(f"entries of tensor {quoted(plan.name)} are written twice")
            self._written[plan.name] = _joined([*pieces, (start, stop)])

    def _refused(self, cause: str) -> CheckpointError:
        return CheckpointError(cause, place=shown(self.folder))


class _Follower:
    """The digest of a file's first bytes, up to a position."""

    def __init__(self, head: bytes) -> None:
        self.blake2b = hashlib.blake2b(head)
        self.position = len(head)

    def add(self, offset: int, data: memoryview) -> None:
        """Bytes from an offset on; those out of order are passed over."""
        if offset == self.position:
            self.blake2b.update(data)
            self.position += len(data)


def _joined(pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, with pieces that touch made one."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(pieces):
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined


def _preallocate(descriptor: int, size: int) -> None:
    """Reserve the space, where the file system can; elsewhere give the file its size only."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except (AttributeError, OSError) as error:  # macOS has no such call
        if isinstance(error, OSError) and error.errno not in _CANNOT_RESERVE:
            raise
        os.ftruncate(descriptor, size)


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """One call writes at most 2 GB, and may write less."""
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)
