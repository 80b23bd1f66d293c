"""The manifest says what every file must be; `verify` says what is not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from evomerge.errors import CheckpointError
from evomerge.export.lineage import MANIFEST
from evomerge.export.manifest import manifest, verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / MANIFEST).write_bytes(manifest(tmp_path, {"format": 1}))
    return tmp_path


def findings(folder: Path) -> list[tuple[str, str]]:
    return [(row["file"], row["finding"]) for row in verify(folder)]


def test_an_untouched_export_has_no_findings(folder: Path) -> None:
    assert verify(folder) == []


def test_every_kind_of_damage_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").write_bytes(b"w3ights")
    (folder / "extra.txt").write_bytes(b"")
    assert findings(folder) == [
        ("config.json", "missing"),
        ("model.safetensors", "content differs"),
        ("extra.txt", "not in the manifest"),
    ]


def test_a_truncated_shard_is_a_size(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weigh")
    assert findings(folder) == [("model.safetensors", "size differs")]
    assert verify(folder)[0]["detail"] == "5 bytes, 7 written"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2, "files": {}}', "\xff"])
def test_a_damaged_manifest_is_our_error(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError):
        verify(folder)


def test_a_folder_without_one_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not an export"):
        verify(tmp_path)


def test_files_known_by_blake2b_are_checked_by_it(folder: Path) -> None:
    digest = hashlib.blake2b(b"{}").hexdigest()
    content = json.loads((folder / MANIFEST).read_bytes())
    content["files"]["config.json"] = {"size": 2, "blake2b": digest}
    (folder / MANIFEST).write_text(json.dumps(content))
    assert verify(folder) == []
    (folder / "config.json").write_bytes(b"[]")
    assert findings(folder) == [("config.json", "content differs")]


def test_digests_that_are_known_are_not_computed_again(folder: Path) -> None:
    plain = manifest(folder, {"format": 1})
    digest = hashlib.sha256(b"weights").hexdigest()
    assert manifest(folder, {"format": 1}, {"model.safetensors": digest}) == plain
