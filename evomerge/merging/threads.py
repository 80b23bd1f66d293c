"""Work shared among as many threads as torch may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def allowed_threads() -> int:
    """As many as torch may use in this thread; where it is not loaded, as it would say."""
    if "torch" in sys.modules:
        import torch

        return torch.get_num_threads()
    wished = os.environ.get("OMP_NUM_THREADS", "")
    if wished.isdigit() and int(wished):
        return int(wished)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What the work makes of each item; begun in their order, by whichever thread is free."""
    threads = min(allowed_threads(), len(items))
    if threads <= 1:
        return [work(item) for item in items]
    waiting, done = iter(list(enumerate(items))), {}  # whose every item goes to one thread

    def take() -> None:
        for place, item in waiting:
            try:
                done[place] = work(item)
            except BaseException:
                for _ in waiting:
                    pass
                raise

    with one_thread_each(), ThreadPoolExecutor(threads) as pool:
        for taken in [pool.submit(take) for _ in range(threads)]:
            taken.result()
    return [done[place] for place in range(len(items))]


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Torch computes in the calling threads meanwhile, which are as many as it may use."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    allowed = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(allowed)
