"""No test reads or writes the user's own caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.checkpoint.caches import VARIABLE


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder
