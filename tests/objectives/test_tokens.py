"""Byte-level tokens against transformers' reading of the same files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import CheckpointError, UsageError
from evomerge.objectives.tokens import ByteTokenizer, byte_letters

os.environ["HF_HUB_OFFLINE"] = "1"

PLAIN = ByteTokenizer.new()
FULL = ByteTokenizer.new(bos_token="<s>", eos_token="</s>", pad_token="<pad>", add_bos=True)
TEXTS = [
    "",
    " ",
    "don't  12,345\r\n\ttabs",
    "Grüße, 漢字 und 🎉",
    "a<s>b</s></s> <pad>c",
    "< s> <s",
    "\x00\x7f\xa0",
]


def save(tokenizer: ByteTokenizer, folder: Path) -> Path:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for name, text in tokenizer.files(max_length=64).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=[PLAIN, FULL], ids=["plain", "full"])
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[ByteTokenizer, Any]:
    """Ours and transformers', from the same files."""
    import transformers

    folder = save(request.param, tmp_path_factory.mktemp("tokenizer"))
    return request.param, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_equal_those_of_transformers(pair: Any, text: str) -> None:
    ours, theirs = pair
    assert theirs(text).input_ids == ours.encode(text)
    back = theirs.decode(ours.encode(text), skip_special_tokens=True)
    assert back == ours.decode(ours.encode(text))


def test_special_tokens_equal_those_of_transformers(pair: Any) -> None:
    ours, theirs = pair
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert len(theirs) == ours.vocab_size and theirs.model_max_length == 64


def test_what_transformers_writes_is_read_back(pair: Any, tmp_path: Path) -> None:
    ours, theirs = pair
    theirs.save_pretrained(tmp_path)
    assert ByteTokenizer.read(tmp_path) == ours


@given(st.text())
def test_text_survives(text: str) -> None:
    assert PLAIN.decode(PLAIN.encode(text)) == text.replace("</s>", "")


def test_bytes_by_hand() -> None:
    assert PLAIN.encode("aé</s>") == [97, 195, 169, 256]
    assert FULL.encode("a") == [256, 97]
    assert PLAIN.decode([97, 195, 256, 98]) == "a\ufffdb"
    assert byte_letters()[ord(" ")] == "Ġ" and byte_letters()[ord("\n")] == "Ċ"


def test_files_survive(tmp_path: Path) -> None:
    assert ByteTokenizer.read(save(FULL, tmp_path)) == FULL


def edited(tokenizer: ByteTokenizer, folder: Path, **changes: Any) -> Path:
    path = save(tokenizer, folder) / "tokenizer.json"
    document = json.loads(path.read_text("utf-8"))
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        place = document
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"model__merges": [["a", "b"]]},
        {"model__type": "Unigram"},
        {"model__dropout": 0.1},
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"pre_tokenizer": None},
        {"truncation": {"max_length": 5}},
        {"post_processor": {"type": "BertProcessing"}},
        {"decoder": {"type": "WordPiece"}},
        {"model__vocab": {"a": 0}},
        {"model": None},
        {"model": []},
        {"added_tokens": [{"id": 256, "content": "</s>", "lstrip": True}]},
    ],
    ids=str,
)
def test_another_kind_of_tokenizer_is_left_to_transformers(
    change: dict[str, Any], tmp_path: Path
) -> None:
    assert ByteTokenizer.read(edited(PLAIN, tmp_path, **change)) is None


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert ByteTokenizer.read(tmp_path) is None


def test_contradicting_files_are_refused(tmp_path: Path) -> None:
    save(PLAIN, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    with pytest.raises(CheckpointError, match="<end>"):
        ByteTokenizer.read(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        ByteTokenizer.read(tmp_path)


def test_a_beginning_needs_its_token() -> None:
    with pytest.raises(UsageError, match="bos_token"):
        ByteTokenizer.new(add_bos=True)
