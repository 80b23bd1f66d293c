"""Silence around a library's calls, for their length only."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """No warnings, and from the library's logger nothing below an error; both are put back.

    Our users did not choose the library's arguments, so its advice on them is not for them.
    """
    logger = logging.getLogger(library)
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            logger.setLevel(logging.ERROR)
            yield
        finally:
            logger.setLevel(level)
