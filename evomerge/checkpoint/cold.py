"""Direct reads of what the page cache does not hold.

The kernel reads a cold file into its cache and copies every byte out of it. Direct requests of many
threads keep a disk as busy for about a quarter of the processor time (experiments/speed/STREAM.md)
and leave in the cache what others need. What they read is as cold afterwards as it was, so they are
for what is read once. What is cached is quicker taken from there, so each request asks first, by
mincore: a read with RWF_NOWAIT would begin the very reading that it is to spare. Whatever cannot be
done here, the caller does by a plain read.
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

SECTOR_BYTES = 4096
"""Direct reads start and end at multiples of it, which are multiples of any sector."""

_own = threading.local()


def read_directly(path: Path, descriptor: int, buffer: memoryview, offset: int) -> int:
    """Read the start of the buffer past the page cache, unless it lies there.

    Nothing stays open: shards are many, and descriptors few. An error is of this request alone.

    Args:
        path: of the file, which is opened once more.
        descriptor: of the file, for reading.
        buffer: filled up to `REQUEST_BYTES`.
        offset: of the file.

    Returns:
        The bytes that were read; the rest is for a plain read. 0 where the file cannot be read
        so, and where mincore tells nothing, as of another user's that cannot be written to.
    """
    wanted = min(len(buffer), REQUEST_BYTES)
    if not wanted or _cached(descriptor, offset + wanted // 2):
        return 0
    direct = _opened_direct(path, descriptor)
    if direct is None:
        return 0
    try:
        return _request(direct, buffer[:wanted], offset)
    except OSError:  # of the way or of the file: a plain read will tell
        return 0
    finally:
        os.close(direct)


def _cached(descriptor: int, offset: int) -> bool:
    """Whether the byte's page is in memory, as its neighbours then mostly are."""
    if _MINCORE is None:
        return True
    start = offset // mmap.PAGESIZE * mmap.PAGESIZE
    try:  # a map to ask about; nothing is read of it
        page = mmap.mmap(descriptor, 1, access=mmap.ACCESS_READ, offset=start)
    except (OSError, ValueError):  # no maps on this file system, or the file ends before
        return True
    found = ctypes.c_ubyte(1)
    failed = _MINCORE(np.frombuffer(page, np.uint8).ctypes.data, 1, ctypes.byref(found))
    return bool(failed or found.value & 1)


def _request(direct: int, buffer: memoryview, offset: int) -> int:
    """Bytes that one direct read gave; fewer than wanted at the file's end."""
    start = offset // SECTOR_BYTES * SECTOR_BYTES
    stop = -(-(offset + len(buffer)) // SECTOR_BYTES) * SECTOR_BYTES
    room, skipped = _bounce(), offset - start
    read = os.preadv(direct, [room[: stop - start].data], start)
    got = min(max(0, read - skipped), len(buffer))
    np.copyto(np.frombuffer(buffer, np.uint8)[:got], room[skipped : skipped + got])
    return got


def _bounce() -> NDArray[np.uint8]:
    """This thread's aligned memory."""
    if not hasattr(_own, "room"):
        memory = np.empty(REQUEST_BYTES + 3 * SECTOR_BYTES, np.uint8)
        _own.room = memory[-memory.ctypes.data % SECTOR_BYTES :]
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
