"""A library that does not answer."""

from __future__ import annotations

import threading

import pytest

from evomerge.search.watchdog import StuckError, within


def test_returns_what_the_call_returns() -> None:
    assert within(10, lambda: 3) == 3


def test_raises_what_the_call_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        within(10, lambda: 1 // 0)


def test_gives_up_and_leaves_a_thread_that_does_not_hold_the_interpreter() -> None:
    never = threading.Event()
    with pytest.raises(StuckError, match=r"no answer within 0\.01 seconds"):
        within(0.01, never.wait)
    left = [thread for thread in threading.enumerate() if thread.name == "evomerge-watched"]
    assert left and all(thread.daemon for thread in left)
    never.set()
    for thread in left:
        thread.join()
