"""No test reads or writes the user's own caches, and none reaches the hub."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evomerge.checkpoint.caches import VARIABLE

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder
