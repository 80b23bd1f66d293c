"""Courses of a few steps, so that tests train in a second what the demo trains in a minute."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evomerge.demo import training


@pytest.fixture
def short_courses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "BASE", replace(training.BASE, steps=12))
    short = {name: replace(course, steps=6) for name, course in training.SPECIALISTS.items()}
    monkeypatch.setattr(training, "SPECIALISTS", short)
