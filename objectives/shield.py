"""Keeps other people's code from the process's random state, and that state from their results."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def global_random_state(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's global generators start from `seed`, and are put back after.

    For libraries that draw from them or seed them: within the block they repeat, and nothing of
    it is felt outside.
    """
    numpy_state = np.random.get_state()  # noqa: NPY002 - the legacy generator is the one they use
    python_state = random.getstate()
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if started else []
    with torch.random.fork_rng(devices=devices):
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
