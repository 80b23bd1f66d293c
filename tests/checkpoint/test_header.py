"""Headers that are right, read the same as the safetensors library reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from evomerge.checkpoint.dtypes import DTYPES
from evomerge.checkpoint.header import Header, TensorEntry, read_header
from evomerge.errors import CheckpointError

TWO = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [8, 14]},
}


def test_entries_say_where_the_bytes_lie(build: Callable[..., Path]) -> None:
    path = build(TWO, bytes(14))
    header = read_header(path)
    start = path.stat().st_size - 14
    assert header.metadata == {"format": "pt"}
    assert dict(header.entries) == {
        "a": TensorEntry("a", "F32", (2,), path, start, 8),
        "b": TensorEntry("b", "BF16", (1, 3), path, start + 8, 6),
    }


def test_entries_count_their_numbers_and_know_what_is_merged() -> None:
    def entry(dtype: str, shape: tuple[int, ...]) -> TensorEntry:
        return TensorEntry("t", dtype, shape, Path("x"), 0, 0)

    assert entry("F32", ()).count == 1
    assert entry("F32", (0, 4)).count == 0
    assert entry("F32", (2, 3, 5)).count == 30
    assert [word for word in DTYPES if entry(word, ()).is_float] == ["F64", "F32", "F16", "BF16"]


def test_entries_stand_in_the_order_of_their_bytes(build: Callable[..., Path]) -> None:
    header = {
        "late": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]},
        "early": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "empty": {"dtype": "U8", "shape": [0], "data_offsets": [1, 1]},
    }
    assert list(read_header(build(header, bytes(2))).entries) == ["early", "empty", "late"]


@pytest.mark.parametrize("text", [b"{}", b"{ }\n", b'{"__metadata__":{}}   '])
def test_a_file_may_hold_no_tensors(build: Callable[..., Path], text: bytes) -> None:
    assert read_header(build(text)) == Header({}, {})


def test_names_may_be_strange(build: Callable[..., Path]) -> None:
    names = ["", "../up", "new\nline", "\x1b[31m", "日本", 'quo"te', "}{", "🜂"]
    header = {
        name: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]}
        for i, name in enumerate(names)
    }
    assert list(read_header(build(header, bytes(len(names)))).entries) == names


def test_every_dtype_of_the_library_is_read_with_its_size(tmp_path: Path) -> None:
    tensors = {
        word: torch.zeros(3, dtype=getattr(torch, dtype.torch_name))
        for word, dtype in DTYPES.items()
        if hasattr(torch, dtype.torch_name) and word != "F8_E8M0"
    }
    save_file(tensors, tmp_path / "all.safetensors")
    entries = read_header(tmp_path / "all.safetensors").entries
    assert {name: entry.dtype for name, entry in entries.items()} == {w: w for w in tensors}
    assert {name: entry.size for name, entry in entries.items()} == {
        word: 3 * DTYPES[word].size for word in tensors
    }


def oracle(data: bytes) -> dict[str, tuple[str, list[int], int]] | None:
    """What the safetensors library reads; None when it refuses."""
    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return None
    return {name: (info["dtype"], info["shape"], len(info["data"])) for name, info in found}


def agrees_with_the_library(path: Path, data: bytes) -> None:
    """We refuse whatever the library refuses, and read the rest the same or refuse it."""
    path.write_bytes(data)
    try:
        header = read_header(path)
    except CheckpointError as error:
        assert error.place == str(path)
        return
    theirs = oracle(data)
    assert theirs is not None
    ours = {n: (e.dtype, list(e.shape), e.size) for n, e in header.entries.items()}
    assert ours == theirs
    assert all(e.start + e.size <= len(data) for e in header.entries.values())


@settings(max_examples=200)
@given(st.binary(max_size=64), st.integers(0, 80))
def test_any_bytes_are_read_or_refused(tmp_path_factory, text: bytes, length: int) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    agrees_with_the_library(path, text)
    agrees_with_the_library(path, length.to_bytes(8, "little") + b"{" + text)


@settings(max_examples=400)
@given(st.data())
def test_a_damaged_header_is_read_or_refused(tmp_path_factory, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    text = bytearray(json.dumps(TWO).encode())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        new = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"}", b'"', b",", b"0", b"-", b"e"])
        )
        text[at : at + data.draw(st.integers(0, 3))] = new
    blob = (
        len(text).to_bytes(8, "little")
        + bytes(text)
        + bytes(data.draw(st.sampled_from([14, 13, 15, 0])))
    )
    agrees_with_the_library(tmp_path_factory.getbasetemp() / "damaged.safetensors", blob)


ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "F4", "x", ""]),
        "shape": st.lists(st.integers(-1, 3) | st.just(2**62), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 16), min_size=1, max_size=3),
    }
)


@settings(max_examples=300)
@given(st.dictionaries(st.text(max_size=3), ENTRIES, max_size=3), st.integers(0, 16))
def test_well_formed_nonsense_is_read_or_refused(tmp_path_factory, header, size: int) -> None:  # type: ignore[no-untyped-def]
    text = json.dumps(header).encode()
    blob = len(text).to_bytes(8, "little") + text + bytes(size)
    agrees_with_the_library(tmp_path_factory.getbasetemp() / "nonsense.safetensors", blob)


def test_thirty_thousand_tensors_are_read(build: Callable[..., Path]) -> None:
    header = {
        f"layer.{i}.weight": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]}
        for i in range(30_000)
    }
    assert len(read_header(build(header, bytes(30_000))).entries) == 30_000
