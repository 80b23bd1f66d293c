"""Outlines: what is known of a model whose weights lie elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.outline import Outline
from evomerge.errors import CheckpointError

WHOLE: dict[str, Any] = {
    "format": "evomerge outline",
    "version": 1,
    "name": "base",
    "digest": "5f",
    "tensors": {"a.weight": ["BF16", [3, 2]], "b": ["F32", []]},
}


def written(folder: Path, document: object) -> Path:
    path = folder / "base.outline.json"
    path.write_text(json.dumps(document))
    return path


def test_an_outline_opens_as_a_checkpoint_that_has_no_weights(tmp_path: Path) -> None:
    with Checkpoint.open(written(tmp_path, WHOLE)) as base:
        assert [(e.name, e.dtype, e.shape) for e in base.tensors.values()] == [
            ("a.weight", "BF16", (3, 2)),
            ("b", "F32", ()),
        ]
        assert base.config() is None
        assert base.side_files() == ()
        assert list(base.digests()) == ["base.outline.json"]
        with pytest.raises(CheckpointError, match="outline; the weights are where the server is"):
            base.tensor("a.weight")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    outline = Outline.read(written(tmp_path, WHOLE))
    (tmp_path / "again.outline.json").write_bytes(outline.file_bytes())
    assert Outline.read(tmp_path / "again.outline.json").to_json() == WHOLE


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "x"}, "is no outline"),
        ({"version": 2}, "version 2"),
        ({"name": ""}, "no name"),
        ({"digest": 3}, "no digest"),
        ({"tensors": []}, "no object of tensors"),
        ({"tensors": {"a": "F32"}}, r"\[dtype, \[sizes\]\] is wanted"),
        ({"tensors": {"a": ["F99", [1]]}}, r"\[dtype, \[sizes\]\] is wanted"),
        ({"tensors": {"a": ["F32", [-1]]}}, r"\[dtype, \[sizes\]\] is wanted"),
        ({"tensors": {"a": ["F32", [True]]}}, r"\[dtype, \[sizes\]\] is wanted"),
        ({"tensors": {"a": ["F32", [2**40, 2**40]]}}, "larger than any tensor"),
    ],
)
def test_nothing_in_an_outline_is_trusted(
    change: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=text):
        Outline.read(written(tmp_path, {**WHOLE, **change}))


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    path.write_bytes(b"{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        Checkpoint.open(path)
