"""One open safetensors file, read at offsets and watched for changes."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evomerge.checkpoint.cold import read_directly
from evomerge.checkpoint.digests import FileState, file_state
from evomerge.checkpoint.header import Header, open_regular, parse_header
from evomerge.checkpoint.names import shown
from evomerge.errors import CheckpointError


class Shard:
    """A file that stays open. Reads name their offset, so threads need no lock.

    Reading by pread rather than by a memory map: a file that shrinks under a map kills the
    process by SIGBUS; here it is an error. `address` is for those who take the risk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = open_regular(path)
        self._map: NDArray[np.uint8] | None = None
        self._first = 0  # where the map begins
        self._lock = threading.Lock()
        try:
            self._state = self._look()
            self.header: Header = parse_header(self._descriptor, path)
        except BaseException:
            self.close()
            raise

    def read_into(self, buffer: memoryview, offset: int, *, once: bool = False) -> None:
        """Fill the buffer from this offset of the file.

        Args:
            buffer, offset: where to, and where from.
            once: nobody reads it again soon, so what is not in the page cache stays out of it.

        Raises:
            CheckpointError: the file is closed, or was changed since it was opened.
        """
        descriptor = self._open_descriptor()
        filled = read_directly(self.path, descriptor, buffer, offset) if once else 0
        try:
            while filled < len(buffer):
                got = os.preadv(descriptor, [buffer[filled:]], offset + filled)
                if got == 0:
                    raise self._broken("became shorter while it was read")
                filled += got
        except OSError as error:
            raise self._broken(f"cannot be read: {error.strerror}") from error
        self.check()

    def check(self) -> None:
        """CheckpointError if the file is not what it was when it was opened."""
        if self._look() != self._state:
            raise self._broken("was changed while it was in use; start again with the new file")

    def address(self, offset: int) -> int:
        """Where the file's byte lies in a memory map, which lasts until the file is closed.

        A process that reads there after the file has become shorter is killed.

        Raises:
            CheckpointError: the file is closed, was changed, or cannot be mapped.
        """
        self.check()
        with self._lock:
            if self._map is None:
                self._map = self._mapped()
                self._first = int(self._map.ctypes.data)
        return self._first + offset

    def close(self) -> None:
        """Give descriptor and map back; no read may be under way."""
        self._map = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _mapped(self) -> NDArray[np.uint8]:
        try:
            memory = mmap.mmap(self._open_descriptor(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise self._broken(f"cannot be mapped: {error.strerror}") from error
        if hasattr(mmap, "MADV_WILLNEED"):  # else a cold file is read by page faults, one by one
            memory.madvise(mmap.MADV_WILLNEED)
        return np.frombuffer(memory, np.uint8)

    @property
    def state(self) -> FileState:
        """Of the file when it was opened."""
        return self._state

    def _look(self) -> FileState:
        return file_state(self._open_descriptor())

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise self._broken("is closed")
        return self._descriptor

    def _broken(self, cause: str) -> CheckpointError:
        return CheckpointError(cause, place=shown(self.path))
