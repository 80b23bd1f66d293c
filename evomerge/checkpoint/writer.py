"""Writes checkpoints piece by piece, in any order, with no tensor held in memory."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from evomerge.checkpoint.dtypes import DTYPES
from evomerge.checkpoint.files import explained, write_file
from evomerge.checkpoint.layout import (
    MODEL,
    SHARD_SIZE,
    ShardPlan,
    TensorPlan,
    checked_layout,
    index_files,
    plan_shards,
)
from evomerge.checkpoint.memory import Entries
from evomerge.checkpoint.names import quoted, shown
from evomerge.checkpoint.ordered import OrderedFile
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
        ordered: pieces come in the order of the bytes, one at a time; shards are then digested,
            and written past the page cache where that can be done.
        stems: see `evomerge.checkpoint.layout.plan_shards`.

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
        ordered: bool = False,
        stems: Mapping[str, str] = MODEL,
    ) -> None:
        self.folder = folder
        self._tensors = checked_layout(layout)
        self.shards = plan_shards(
            self._tensors, shard_size=shard_size, metadata=metadata, stems=stems
        )
        self._stems = stems
        self._plans = {plan.name: plan for plan in self._tensors}
        self._places = {name: shard for shard in self.shards for name in shard.offsets}
        self._written: dict[str, list[tuple[int, int]]] = {name: [] for name in self._plans}
        self._lock = threading.Lock()
        self._descriptors: dict[str, int] = {}
        self._ordered: dict[str, OrderedFile] = {}
        try:
            for shard in self.shards:
                self._create(shard, ordered=ordered)
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
        self.write_entries(name, start, Entries.of(piece))

    def write_entries(self, name: str, start: int, piece: Entries) -> None:
        """As `write`."""
        plan = self._checked(name, start, piece)
        if not len(piece):
            return
        self._claim(plan, start, start + len(piece))
        shard = self._places[name]
        offset = shard.offsets[name] + start * DTYPES[plan.dtype].size
        with explained(self.folder / shard.name):
            data = piece.data.data
            file = self._ordered.get(shard.name)
            if file is not None and file.position == offset:
                file.add(data)
            else:
                _write_all(self._descriptors[shard.name], data, offset)
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
                if name in self._ordered:
                    self._ordered[name].close()
                os.fsync(descriptor)
        self.close()
        for name, content in index_files(self.shards, self._stems).items():
            write_file(self.folder / name, content)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 (hex) of the shards whose every byte came in order, by name."""
        found = {name: file.sha256 for name, file in self._ordered.items()}
        return {name: digest for name, digest in found.items() if digest is not None}

    def close(self) -> None:
        """Close the files as they are."""
        for file in self._ordered.values():
            with contextlib.suppress(OSError):  # of a write that nobody waits for any more
                file.close()
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

    def _create(self, shard: ShardPlan, *, ordered: bool) -> None:
        path = self.folder / shard.name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with explained(path):
            path.parent.mkdir(exist_ok=True)
            self._descriptors[shard.name] = os.open(path, flags, 0o666)  # less the umask
            _preallocate(self._descriptors[shard.name], shard.size)
            if ordered:
                descriptor = self._descriptors[shard.name]
                file = self._ordered[shard.name] = OrderedFile(path, descriptor, shard.size)
                file.add(memoryview(shard.head))
            else:
                _write_all(self._descriptors[shard.name], memoryview(shard.head), 0)

    def _checked(self, name: str, start: int, piece: Entries) -> TensorPlan:
        plan = self._plans.get(name)
        if plan is None:
            raise self._refused(f"the layout has no tensor {quoted(name)}")
        if piece.word != plan.dtype:
            raise self._refused(f"tensor {quoted(name)} is {plan.dtype}, the piece {piece.word}")
        if not 0 <= start <= start + len(piece) <= plan.entries:
            raise self._refused(
                f"entries {start} to {start + len(piece)} of tensor {quoted(name)}, "
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
