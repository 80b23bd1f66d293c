"""A file whose bytes come in their order: digested on the way, and written past the page cache.

A merged shard is flushed to the disk anyway. Direct writes save the kernel's copy of it, which
costs ten times the processor time of the write itself, and leave the cache to the inputs.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

BUFFER_BYTES = 2**22
"""Bytes of one write; a multiple of every disk's block."""

_NOT_DIRECT = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


class OrderedFile:
    """The first bytes of a file, up to a position.

    Args:
        path: exists.
        descriptor: open for writing; whoever opened it closes it.
        size: that the file will have.
    """

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.position = 0
        self._sha256 = hashlib.sha256()
        self._descriptor, self._size = descriptor, size
        self._direct = _opened_direct(path)
        self._buffers: list[mmap.mmap] = []
        self._filled = 0
        self._writing: Future[None] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def add(self, data: memoryview) -> None:
        """The next bytes; an OSError may be that of earlier ones."""
        self._sha256.update(data)
        while len(data):
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1)
                self._buffers = [mmap.mmap(-1, BUFFER_BYTES) for _ in range(2)]
            part = data[: BUFFER_BYTES - self._filled]
            self._buffers[0][self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            self.position += len(part)
            data = data[len(part) :]
            if self._filled == BUFFER_BYTES:
                self._flush()
        if self.position == self._size:
            self.close()

    @property
    def sha256(self) -> str | None:
        """Hex, of the whole file; None while bytes are missing."""
        return self._sha256.hexdigest() if self.position == self._size else None

    def close(self) -> None:
        """Write what is left, give all memory back."""
        try:
            if self._filled:
                self._flush()
            self._wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
            for buffer in self._buffers:
                buffer.close()
            if self._direct is not None:
                os.close(self._direct)
            self._direct, self._thread, self._buffers = None, None, []

    def _flush(self) -> None:
        """Begin to write the buffer; the other one is free when the write before has ended."""
        self._wait()
        assert self._thread is not None
        start, count = self.position - self._filled, self._filled
        self._writing = self._thread.submit(self._write, self._buffers[0], count, start)
        self._buffers.reverse()
        self._filled = 0

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, buffer: mmap.mmap, count: int, offset: int) -> None:
        with memoryview(buffer) as whole, whole[:count] as data:
            done = 0
            if self._direct is not None and count == BUFFER_BYTES:
                done = self._write_direct(self._direct, data, offset)
            while done < count:
                done += os.pwrite(self._descriptor, data[done:], offset + done)

    def _write_direct(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Bytes written; 0 where the file system would rather not."""
        try:
            return os.pwrite(descriptor, data, offset)
        except OSError as error:
            if error.errno not in _NOT_DIRECT:
                raise
            os.close(descriptor)
            self._direct = None
            return 0


def _opened_direct(path: Path) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
    except (OSError, AttributeError):  # macOS has no such flag
        return None
