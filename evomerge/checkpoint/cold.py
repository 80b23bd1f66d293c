"""Direct reads of what the page cache does not hold.

The kernel reads a cold file through its cache with few requests under way, and copies every byte.
Direct requests of many threads keep a disk busy for a quarter of the processor time, and leave in
the cache what others need. What is there already is quicker taken from there, so each request asks
first, by mincore: a read with RWF_NOWAIT would begin the very reading that it is to spare.
Whatever cannot be done here, the caller does by a plain read.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REQUEST_BYTES = 2**21
"""The most that one direct request reads for its caller."""

ALIGNED = 4096
"""Bytes; direct reads start and end at multiples of it, which are multiples of any sector."""

_own = threading.local()


class ColdReads:
    """Direct reads of one open file, by any number of threads.

    A file that cannot be read so counts as cached, and so does one of which mincore tells nothing,
    as of another user's that cannot be written to.

    Args:
        path: of the file, which is opened once more.
        descriptor: of the file, for reading.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._map: mmap.mmap | None = None  # to ask about; nothing is read of it
        self._direct = _opened_direct(path, descriptor)
        if self._direct is not None and _MINCORE is not None:
            try:
                self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError):  # no maps on this file system, or an empty file
                return
            self._first = int(np.frombuffer(self._map, np.uint8).ctypes.data)
            self._pages = len(self._map) // mmap.PAGESIZE

    def read(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer from this offset of the file, as far as that is not cached.

        Returns:
            The bytes at the buffer's start that were read; the rest is for a plain read.
        """
        done = 0
        while done < len(buffer):
            wanted = min(len(buffer) - done, REQUEST_BYTES)
            if self._cached(offset + done + wanted // 2):
                break
            got = self._request(buffer[done : done + wanted], offset + done)
            done += got
            if got < wanted:
                break
        return done

    def close(self) -> None:
        """Give everything back; no read may be under way."""
        self._map = None
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None

    def _cached(self, offset: int) -> bool:
        """Whether the byte's page is in memory, as its neighbours then mostly are."""
        page = offset // mmap.PAGESIZE
        if self._map is None or page >= self._pages:
            return True
        found = ctypes.c_ubyte(1)
        assert _MINCORE is not None
        failed = _MINCORE(self._first + page * mmap.PAGESIZE, mmap.PAGESIZE, ctypes.byref(found))
        return bool(failed or found.value & 1)

    def _request(self, buffer: memoryview, offset: int) -> int:
        """Bytes that one direct read gave; fewer than wanted at the file's end, or refused."""
        start = offset // ALIGNED * ALIGNED
        stop = -(-(offset + len(buffer)) // ALIGNED) * ALIGNED
        room, skipped = _bounce(), offset - start
        assert self._direct is not None
        try:
            read = os.preadv(self._direct, [room[: stop - start].data], start)
        except OSError:  # of the way or of the file: a plain read will tell
            self._map = None
            return 0
        got = min(max(0, read - skipped), len(buffer))
        np.copyto(np.frombuffer(buffer, np.uint8)[:got], room[skipped : skipped + got])
        return got


def _bounce() -> NDArray[np.uint8]:
    """This thread's aligned memory."""
    if not hasattr(_own, "room"):
        memory = np.empty(REQUEST_BYTES + 3 * ALIGNED, np.uint8)
        _own.room = memory[-memory.ctypes.data % ALIGNED :]
    room: NDArray[np.uint8] = _own.room
    return room


def _opened_direct(path: Path, descriptor: int) -> int | None:
    """The same file for direct reads; None where there are none."""
    try:
        direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_DIRECT)
    except (OSError, AttributeError):  # macOS has no such flag
        return None
    if not os.path.sameopenfile(direct, descriptor):  # replaced meanwhile
        os.close(direct)
        return None
    return direct


def _mincore() -> Any:
    """The system's function; None where it has none."""
    try:
        function = ctypes.CDLL(None).mincore
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    return function


_MINCORE = _mincore()
