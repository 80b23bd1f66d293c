"""A tiny real campaign on disk, and the real command line to use on it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from evomerge.cli import app

EMBEDDING = "model.embed_tokens.weight"
MATRIX = "model.layers.0.mlp.up_proj.weight"
NORM = "model.norm.weight"
CAMPAIGN = """\
base: base
models: {math: math, code: code}
merge: {method: sparse_signed, groups: {layers: all}}
goals:
  - {metric: near, objective: {type: python, function: "score.py:near", items: 10}}
  - {metric: small, objective: {type: python, function: "score.py:small", items: items.jsonl}, direction: minimize}
sampler: random
budget: {trials: 6}
study: study
"""  # noqa: E501
RECIPE = """\
base: base
models: {math: math, code: code}
merge: {method: sparse_signed, groups: {layers: all}, parameters: {weight: 0.5}}
"""
SCORE = '''\
"""Two goals that pull apart: weights near 0.3, and small ones."""


def near(parameters, items):
    weights = [v for k, v in parameters.items() if k.endswith("weight")]
    return [-sum((w - 0.3 - 0.01 * item) ** 2 for w in weights) for item in items]


def small(parameters, items):
    weights = [v for k, v in parameters.items() if k.endswith("weight")]
    return [item["size"] * sum(w * w for w in weights) for item in items]


near.needs = small.needs = "coefficients"
'''


@dataclass(frozen=True)
class Said:
    """What a command line answered."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both streams, with runs of white space as one space."""
        return " ".join(f"{self.out}\n{self.err}".split())

    @property
    def json(self) -> Any:
        """The rows."""
        return json.loads(self.out)


class World:
    """A folder with two descendants of a base, a campaign, a recipe, objectives and items."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.holders: list[subprocess.Popen[str]] = []
        for name in ("base", "math", "code"):
            self.save(name, tensors(name))
        self.write("campaign.yaml", CAMPAIGN)
        self.write("recipe.yaml", RECIPE)
        self.write("score.py", SCORE)
        self.write("items.jsonl", "".join(f'{{"size": {1 + i % 2}}}\n' for i in range(10)))

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def write(self, name: str, text: str) -> Path:
        """A text file, with its folders."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def edit(self, old: str, new: str, *, file: str = "campaign.yaml") -> None:
        """Replace words of a text file; they must be there."""
        text = (self.folder / file).read_text()
        assert old in text, old
        self.write(file, text.replace(old, new))

    def save(self, name: str, arrays: Mapping[str, Any], **config: Any) -> None:
        """A model folder, in place of the one there."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        save_file(dict(arrays), place / "model.safetensors", metadata={"format": "pt"})
        about = {"model_type": "llama", "vocab_size": 8, **config}
        (place / "config.json").write_text(json.dumps(about))

    def run(self, *words: str) -> Said:
        """One command line, in this process."""
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = app.run(words)
        return Said(code, out.getvalue(), err.getvalue())

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """One command line as a process of its own, which is ended after the test."""
        command = [sys.executable, "-m", "evomerge", *words]
        return self.start_python(command, **options)

    def start_python(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        """Any process in this folder, which is ended after the test."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=self.folder, text=True, **{**pipes, **options})
        self.holders.append(process)
        return process

    def process(self, *words: str, **options: Any) -> Said:
        """One command line in a process of its own, to its end."""
        process = self.start(*words, **options)
        out, err = process.communicate(timeout=240)
        return Said(process.returncode, out or "", err or "")

    def listing(self) -> dict[str, str]:
        """Every path below, with what it holds; SQLite's own side files are no content."""
        return {
            path.relative_to(self.folder).as_posix(): _content(path)
            for path in sorted(self.folder.rglob("*"))
            if "__pycache__" not in path.parts and not path.name.endswith(("-wal", "-shm"))
        }


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    if not path.is_file():
        return "folder" if path.is_dir() else "special"
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def tensors(name: str) -> dict[str, Any]:
    """An embedding, a matrix and a norm."""
    generator = np.random.default_rng({"base": 0, "math": 1, "code": 2}[name])
    base = np.random.default_rng(0)
    step = 0.0 if name == "base" else 0.1
    return {
        tensor: (base.normal(size=shape) + step * generator.normal(size=shape)).astype("f4")
        for tensor, shape in ((EMBEDDING, (8, 4)), (MATRIX, (4, 4)), (NORM, (4,)))
    }


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A folder of one's own."""
    made = World(tmp_path)
    yield made
    for process in made.holders:
        process.kill()
        process.communicate()
