"""The hostile corpus: each file is refused by one sentence, and costs next to no memory."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.header import LONGEST_HEADER, MOST_TENSORS, read_header
from evomerge.errors import CheckpointError

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Case:
    """Bytes of a file, and words of the sentence that refuses it."""

    words: str
    header: Any
    data: bytes = b""
    length: int | None = None


def entry(
    begin: Any, end: Any, shape: Any = None, dtype: Any = "U8", **more: Any
) -> dict[str, Any]:
    """A tensor of bytes, or one that claims to be something else."""
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


ONE = entry(0, 4)
TEXT = json.dumps(ONE).encode()

CORPUS = {
    "length beyond the file": Case("should be 99 bytes long", {"a": ONE}, bytes(4), 99),
    "length 2**63": Case("should be 9223372036854775808 bytes", {"a": ONE}, bytes(4), 2**63),
    "length 2**64-1": Case("should be 18446744073709551615", {"a": ONE}, bytes(4), 2**64 - 1),
    "length zero": Case("does not start with '{'", {}, b"", 0),
    "no JSON": Case("a string should stand", b"{hello}"),
    "cut JSON": Case("not valid JSON", b'{"a"'),
    "cut string": Case("not valid JSON", b'{"a'),
    "cut entry": Case("an object of at most 4096", b'{"a":{"dtype":"U8"'),
    "no UTF-8": Case("not UTF-8", b'{"\xff":{}}'),
    "a list": Case("'{' should stand", b"[]"),
    "a number": Case("'{' should stand", b"12"),
    "white space first": Case("does not start with '{'", b" {}"),
    "byte order mark": Case("'{' should stand", "\ufeff{}".encode()),
    "rest behind the JSON": Case("something follows the end", b"{} {}"),
    "NUL padding": Case("something follows the end", b"{}\0\0"),
    "deep lists": Case("an object of at most 4096", b'{"a":' + b"[" * 100_000),
    "deep lists in an entry": Case(
        "an object of at most 4096", b'{"a":{"b":' + b"[" * 5_000 + b"}"
    ),
    "deep lists in a short entry": Case("nested too deeply", b'{"a":{"b":' + b"[" * 3_000 + b"}"),
    "deep objects": Case("an object of at most 4096", b'{"a":' * 50_000),
    "entry is a list": Case("an object of at most 4096", {"a": [ONE]}),
    "entry is null": Case("an object of at most 4096", {"a": None}),
    "entry is empty": Case("must have dtype", {"a": {}}),
    "entry lacks offsets": Case("must have dtype", {"a": {"dtype": "U8", "shape": []}}),
    "entry says more": Case("nothing else", {"a": entry(0, 4, extra=1)}, bytes(4)),
    "entry says a thing twice": Case(
        "'dtype' occurs twice",
        b'{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "two tensors of one name": Case(
        "'a' occurs twice", b'{"a":%b,"a":%b}' % (TEXT, TEXT), bytes(4)
    ),
    "one name, escaped once": Case(
        "'a' occurs twice", b'{"a":%b,"\\u0061":%b}' % (TEXT, TEXT), bytes(4)
    ),
    "half a surrogate pair": Case("half a surrogate", b'{"\\ud800":%b}' % TEXT, bytes(4)),
    "raw control character": Case("not valid JSON", b'{"a\n":%b}' % TEXT, bytes(4)),
    "unknown dtype": Case("dtype 'X9'", {"a": entry(0, 4, dtype="X9")}, bytes(4)),
    "packed dtype": Case("dtype 'F4'", {"a": entry(0, 4, [8], "F4")}, bytes(4)),
    "dtype is a list": Case("dtype '[]'", {"a": entry(0, 4, dtype=[])}, bytes(4)),
    "dtype is a number": Case("dtype '4'", {"a": entry(0, 4, dtype=4)}, bytes(4)),
    "negative shape": Case("no tensor can have", {"a": entry(0, 4, [-4])}, bytes(4)),
    "two negative dimensions": Case("no tensor can have", {"a": entry(0, 4, [-2, -2])}, bytes(4)),
    "minus zero": Case("-0 is not", b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'),
    "fraction in a shape": Case("no tensor can have", {"a": entry(0, 4, [4.0])}, bytes(4)),
    "boolean in a shape": Case("no tensor can have", {"a": entry(0, 1, [True])}, bytes(1)),
    "shape is a number": Case("no tensor can have", {"a": entry(0, 4, 4)}, bytes(4)),
    "shape is a word": Case("no tensor can have", {"a": entry(0, 4, "4")}, bytes(4)),
    "shape overflows": Case("no tensor can have", {"a": entry(0, 4, [2**62, 2**62])}, bytes(4)),
    "empty shape overflows": Case("no tensor can have", {"a": entry(0, 0, [2**62, 4, 0])}),
    "65 dimensions": Case("no tensor can have", {"a": entry(0, 1, [1] * 65)}, bytes(1)),
    "long number": Case("no two places", {"a": entry(-(10**2000), 0, [4])}, bytes(4)),
    "longer number": Case("an object of at most 4096", b'{"a":{"b":%b}}' % (b"9" * 100_000)),
    "number 1e999": Case(
        "no tensor can have", b'{"a":{"dtype":"U8","shape":[1e999],"data_offsets":[0,0]}}'
    ),
    "NaN": Case("NaN is not JSON", b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}'),
    "three offsets": Case(
        "no two places", {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4, 4]}}, bytes(4)
    ),
    "negative offset": Case("no two places", {"a": entry(-4, 0)}, bytes(4)),
    "offsets reversed": Case("should lie at bytes 4 to 0", {"a": entry(4, 0, [4])}, bytes(4)),
    "offsets beyond the file": Case("should lie at bytes 0 to 8", {"a": entry(0, 8)}, bytes(4)),
    "offsets of 2**64": Case("should lie at bytes", {"a": entry(2**64, 2**64 + 4, [4])}, bytes(4)),
    "size and shape differ": Case("is not 4 bytes long", {"a": entry(0, 4, [3])}, bytes(4)),
    "size and dtype differ": Case("is not 4 bytes long", {"a": entry(0, 4, [4], "F32")}, bytes(4)),
    "overlap": Case("overlaps", {"a": ONE, "b": entry(2, 6)}, bytes(6)),
    "same bytes twice": Case("overlaps", {"a": ONE, "b": ONE}, bytes(4)),
    "empty tensor inside another": Case("overlaps", {"a": ONE, "b": entry(2, 2)}, bytes(4)),
    "hole": Case("leaves a hole", {"a": entry(0, 2), "b": entry(4, 6)}, bytes(6)),
    "hole at the start": Case("leaves a hole", {"a": entry(2, 6)}, bytes(6)),
    "bytes behind the last tensor": Case("2 bytes follow", {"a": ONE}, bytes(6)),
    "bytes without tensors": Case("6 bytes follow", {}, bytes(6)),
    "metadata is a list": Case("'{' should stand", {"__metadata__": []}),
    "metadata holds a number": Case("a string should stand", {"__metadata__": {"a": 1}}),
    "metadata holds an object": Case("a string should stand", {"__metadata__": {"a": {}}}),
    "metadata twice": Case("occurs twice", b'{"__metadata__":{},"__metadata__":{}}'),
    "metadata key twice": Case("'k' occurs twice", b'{"__metadata__":{"k":"","k":""}}'),
    "trailing comma": Case("a string should stand", b'{"__metadata__":{},}'),
    "bomb of empty lists": Case(
        "an object of at most 4096", b'{"a":[' + b"[]," * 300_000 + b"[]]}"
    ),
    "bomb of empty objects": Case("must have dtype", b'{"a":{}' + b',"a":{}' * 200_000 + b"}"),
}


def refused(read: Callable[[], object]) -> CheckpointError:
    """The error of a read, which must not have used much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            read()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MEGABYTE
    return caught.value


@pytest.mark.parametrize("case", CORPUS.values(), ids=CORPUS.keys())
def test_a_hostile_file_is_refused_in_one_sentence(build: Callable[..., Path], case: Case) -> None:
    path = build(case.header, case.data, length=case.length)
    error = refused(lambda: read_header(path))
    assert case.words in error.cause
    assert error.place == str(path)
    assert "\n" not in str(error)
    assert len(str(error)) < 600
    assert str(refused(lambda: Checkpoint.open(path))) == str(error)


@pytest.mark.parametrize("size", [0, 3, 7])
def test_a_file_too_short_for_a_length_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(size))
    assert f"has {size} bytes" in refused(lambda: read_header(path)).cause


def test_a_download_that_stopped_is_refused_with_advice(build: Callable[..., Path]) -> None:
    path = build({"a": entry(0, 400)}, bytes(400))
    os.truncate(path, 300)
    assert "download it again" in refused(lambda: read_header(path)).cause


def test_a_header_longer_than_the_format_allows_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    path.write_bytes((2 * LONGEST_HEADER).to_bytes(8, "little"))
    os.truncate(path, 3 * LONGEST_HEADER)
    assert f"at most {LONGEST_HEADER}" in refused(lambda: read_header(path)).cause


def test_more_tensors_than_any_checkpoint_has_are_refused(
    build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_TENSORS == 1_000_000
    monkeypatch.setattr("evomerge.checkpoint.header.MOST_TENSORS", 2)
    path = build({name: entry(0, 0) for name in "abc"})
    assert "more than 2 tensors" in refused(lambda: read_header(path)).cause


def test_hostile_names_reach_no_terminal(build: Callable[..., Path]) -> None:
    name = "\x1b[2J\r\nroot# \u202e" + "x" * 10_000
    error = refused(lambda: read_header(build({name: entry(0, 8)}, bytes(4))))
    assert str(error).isprintable()
    assert r"\x1b[2J\r\nroot# \u202e" in error.cause


@pytest.mark.timeout(20)
def test_only_regular_files_are_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    zero = tmp_path / "zero.safetensors"
    zero.symlink_to("/dev/zero")
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    for path in (pipe, zero, folder):
        assert "not a regular file" in refused(lambda path=path: read_header(path)).cause


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    assert "No such file" in refused(lambda: read_header(path)).cause


def test_a_path_with_a_nul_is_refused() -> None:
    refused(lambda: read_header(Path("a\0b.safetensors")))
    refused(lambda: Checkpoint.open("a\0b.safetensors"))
