"""A campaign of a 4 x 4 model: two parents, two goals, ten items; measured by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

CAMPAIGN = """
base: base
models: {math: math, code: code}
merge: {method: sparse_signed, groups: {layers: all}}
goals:
  - {metric: a, objective: {type: python, function: "score.py:a", items: 10}}
  - {metric: b, objective: {type: python, function: "score.py:b", items: 10}, direction: minimize}
items: {search: 60%, selection: 20%, test: 20%}
sampler: random
lookahead: 2
budget: {trials: 12}
study: runs/demo.evomerge
"""


def write_models(folder: Path) -> None:
    """A base and two parents, each one small tensor."""
    generator = np.random.default_rng(0)
    for name in ("base", "math", "code"):
        (folder / name).mkdir()
        tensors = {"model.layers.0.mlp.up_proj.weight": generator.normal(size=(4, 4)).astype("f4")}
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
        (folder / name / "config.json").write_text('{"model_type": "llama"}')
    (folder / "score.py").write_text("def a(subject, items): ...\n\n\ndef b(subject, items): ...\n")


@pytest.fixture(scope="session")
def make_campaign() -> Callable[..., Path]:
    """Writes models and campaign file into a folder, with words replaced, ``(old, new)`` pairs."""

    def make(folder: Path, *edits: tuple[str, str]) -> Path:
        if not (folder / "base").exists():
            write_models(folder)
        text = CAMPAIGN
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        path = folder / "campaign.yaml"
        path.write_text(text)
        return path

    return make


@pytest.fixture
def write_campaign(tmp_path: Path, make_campaign: Callable[..., Path]) -> Callable[..., Path]:
    """As `make_campaign`, in the test's own folder."""
    return functools.partial(make_campaign, tmp_path)


@pytest.fixture
def campaign_file(write_campaign: Callable[..., Path]) -> Path:
    """The campaign file as above."""
    return write_campaign()
