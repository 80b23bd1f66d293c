"""The live mirror hands events on, and never ends a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from evomerge.cli.mirroring import Mirroring
from evomerge.goals import Goal
from evomerge.study.events import Event, PhaseBegan

BEGAN = PhaseBegan("search", 3, 1)


def mirroring(url: str, seen: list[Event]) -> Mirroring:
    study = cast(Any, SimpleNamespace(name="s", goals=(Goal("a"),)))
    return Mirroring(study, url, seen.append)


def test_events_are_handed_on(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Event] = []
    mirroring("nosuch://storage", seen)(BEGAN)
    assert seen == [BEGAN] and capsys.readouterr().err == ""  # nothing has ended: no copy yet


def test_a_mirror_that_cannot_be_written_is_spoken_of_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = mirroring("nosuch://storage", [])
    broken.copy()
    broken.copy()
    assert capsys.readouterr().err.count("the mirror cannot be written") == 1
