"""A limit on how long a library may take."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class StuckError(Exception):
    """The call did not return in time; its thread is left behind."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises, if it does so in time.

    It runs in a daemon thread, which can be abandoned and does not hold the interpreter open.

    Raises:
        StuckError: after `seconds` seconds of wall time.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="evomerge-watched", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise StuckError(f"no answer within {seconds:g} seconds")
    if errors:
        raise errors[0]
    return results[0]
