"""Folders: which files make up a checkpoint, and the hostile ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import CheckpointError

A = {"a": torch.arange(3.0)}
B = {"b": torch.arange(5.0)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sharded checkpoint of two tensors."""
    home = tmp_path / "model"
    home.mkdir()
    save_file(A, home / "model-00001-of-00002.safetensors")
    save_file(B, home / "model-00002-of-00002.safetensors")
    write_index(
        home, {name: f"model-0000{i}-of-00002.safetensors" for i, name in ((1, "a"), (2, "b"))}
    )
    return home


def write_index(folder: Path, weight_map: Any, name: str = "model.safetensors.index.json") -> None:
    (folder / name).write_text(
        json.dumps({"metadata": {"total_size": 32}, "weight_map": weight_map})
    )


def cause(folder: Path | str) -> str:
    """Why a folder is refused: one printable line."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    assert caught.value.cause.isprintable()
    assert "Error(" not in caught.value.cause
    return str(caught.value)


def test_a_sharded_folder_is_one_checkpoint(folder: Path) -> None:
    with Checkpoint.open(folder) as checkpoint:
        assert list(checkpoint.tensors) == ["a", "b"]
        assert [shard.name[:11] for shard in checkpoint.shards] == ["model-00001", "model-00002"]
        assert torch.equal(checkpoint.tensor("b"), B["b"])


def test_the_only_weight_file_may_have_any_name(tmp_path: Path) -> None:
    save_file(A, tmp_path / "diffusion_pytorch_model.safetensors")
    with Checkpoint.open(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == ["a"]


def test_weights_in_another_format_beside_the_index_are_no_concern(folder: Path) -> None:
    save_file(A, folder / "consolidated.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with Checkpoint.open(folder) as checkpoint:
        assert len(checkpoint.shards) == 2


def test_shards_may_lie_in_folders_below(folder: Path) -> None:
    (folder / "sub").mkdir()
    save_file(A, folder / "sub" / "x.safetensors")
    write_index(folder, {"a": "sub/x.safetensors"})
    with Checkpoint.open(folder) as checkpoint:
        assert torch.equal(checkpoint.tensor("a"), A["a"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/etc/passwd.safetensors", "absolute"),
        ("~/x.safetensors", "absolute"),
        ("C:\\x.safetensors", "backslash"),
        ("C:/x.safetensors", "absolute"),
        ("../model-00001-of-00002.safetensors", "climbs out"),
        ("sub/../../x.safetensors", "climbs out"),
        ("..\\x.safetensors", "backslash"),
        ("x\0.safetensors", "unprintable"),
        ("x\n.safetensors", "unprintable"),
        ("\x1b[2J.safetensors", "unprintable"),
        ("", "is empty"),
        (".", "not a .safetensors file"),
        ("model.bin", "can run code"),
        ("model.safetensors.bin", "can run code"),
        (7, "is no name"),
        (None, "is no name"),
        (["x.safetensors"], "is no name"),
    ],
)
def test_hostile_shard_names_are_refused_before_anything_is_opened(
    folder: Path, name: Any, words: str
) -> None:
    write_index(folder, {"a": name})
    message = cause(folder)
    assert words in message
    assert "tensor 'a'" in message
    assert "model.safetensors.index.json" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not valid JSON"),
        (b"[]", "does not hold a JSON object"),
        (b"{}", "no weight_map"),
        (b'{"weight_map":{}}', "no weight_map"),
        (b'{"weight_map":[]}', "no weight_map"),
        (b'{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}', "'a' occurs twice"),
        (b'{"weight_map":{"a":NaN}}', "NaN is not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'{"n":' + b"9" * 5_000 + b"}", "a number is too long"),
        (b'{"weight_map":{"a":"\\ud800.safetensors"}}', "half a surrogate"),
    ],
)
def test_an_index_that_is_no_index_is_refused(folder: Path, text: bytes, words: str) -> None:
    (folder / "model.safetensors.index.json").write_bytes(text)
    assert words in cause(folder)


def test_a_huge_index_is_not_read(folder: Path) -> None:
    os.truncate(folder / "model.safetensors.index.json", 10**9)
    assert "is longer than" in cause(folder)


def test_all_differences_between_index_and_shards_are_told_at_once(folder: Path) -> None:
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    save_file({"b": A["a"].clone(), "c": A["a"].clone()}, folder / first)
    write_index(folder, {"a": first, "b": second, "d": "gone.safetensors"})
    message = cause(folder)
    assert f"'{first}' lacks 'a'" in message
    assert f"'{first}' holds 'b', 'c'" in message
    assert "gone.safetensors" in message
    assert "No such file" in message


def test_a_shard_that_is_damaged_is_named(folder: Path) -> None:
    os.truncate(folder / "model-00002-of-00002.safetensors", 40)
    assert "model-00002-of-00002.safetensors" in cause(folder)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    shard = folder / "model-00001-of-00002.safetensors"
    elsewhere = tmp_path / "elsewhere.safetensors"
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere)
    assert "leaves the folder" in cause(folder)
    shard.unlink()
    shard.symlink_to(shard.name)
    assert "cannot be opened" in cause(folder)


def test_links_into_the_cache_of_the_hub_are_followed(folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    with Checkpoint.open(folder) as checkpoint:
        assert torch.equal(checkpoint.tensor("b"), B["b"])
        assert list(checkpoint.digests()) == [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ]


def test_links_within_the_folder_are_followed(folder: Path) -> None:
    shard = folder / "model-00001-of-00002.safetensors"
    shard.rename(folder / "blob")
    shard.symlink_to("blob")
    with Checkpoint.open(folder) as checkpoint:
        assert torch.equal(checkpoint.tensor("a"), A["a"])


@pytest.mark.timeout(20)
def test_pipes_and_devices_in_a_folder_are_refused(folder: Path) -> None:
    shard = folder / "model-00001-of-00002.safetensors"
    shard.unlink()
    os.mkfifo(shard)
    assert "not a regular file" in cause(folder)
    shard.unlink()
    shard.mkdir()
    assert "not a regular file" in cause(folder)
    (folder / "model.safetensors.index.json").unlink()
    os.mkfifo(folder / "model.safetensors.index.json")
    assert "not a regular file" in cause(folder)


def test_pickles_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n")
    message = cause(tmp_path)
    assert "'pytorch_model.bin'" in message
    assert "safe_serialization=True" in message


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "holds no .safetensors file"),
        (["README.md"], "holds no .safetensors file"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "no index"),
        (["a.safetensors.index.json", "b.safetensors.index.json"], "several indexes"),
        (["adapter_model.safetensors", "adapter_config.json"], "PEFT adapter"),
    ],
)
def test_folders_without_one_clear_set_of_weights_are_refused(
    tmp_path: Path, files: list[str], words: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert words in cause(tmp_path)


def test_a_whole_file_beside_an_index_of_others_is_ambiguous(folder: Path) -> None:
    save_file(A, folder / "model.safetensors")
    assert "holds both" in cause(folder)


def test_other_files_and_names_of_the_hub_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "model.zip"
    archive.write_bytes(b"PK\3\4")
    assert "neither a folder nor a .safetensors file" in cause(archive)
    assert "no such folder" in cause(tmp_path / "none")
    message = cause("some-org/Some-Model.7B@v2")
    assert "with its revision, some-org/Some-Model.7B@v2" in message


def test_side_files_are_what_an_export_carries_over(folder: Path) -> None:
    wanted = [
        "LICENSE",
        "NOTICE.txt",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    ]
    others = ["README.md", "tokenizer.py", "tokenizer.pkl", "modeling_x.py", "pytorch_model.bin"]
    for name in [*wanted, *others]:
        (folder / name).write_text("x")
    (folder / "tokenizer_files").mkdir()
    with Checkpoint.open(folder) as checkpoint:
        assert [path.name for path in checkpoint.side_files()] == wanted


def test_a_side_file_that_leaves_the_folder_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").symlink_to("/etc/hostname")
    with Checkpoint.open(folder) as checkpoint, pytest.raises(CheckpointError, match="leaves"):
        checkpoint.side_files()


def test_the_config_is_strict_json(folder: Path) -> None:
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.config() is None
        (folder / "config.json").write_text('{"model_type": "llama", "n": 2}')
        assert checkpoint.config() == {"model_type": "llama", "n": 2}
        (folder / "config.json").write_text('{"n": 2, "n": 3}')
        with pytest.raises(CheckpointError, match="'n' occurs twice"):
            checkpoint.config()
        (folder / "config.json").write_text('{"n": NaN}')
        with pytest.raises(CheckpointError, match="NaN is not JSON"):
            checkpoint.config()
