"""Words about checkpoints: dtypes, names on screens, strict JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.checkpoint.dtypes import DTYPES, dtype_word, parse_dtype, torch_dtype
from evomerge.checkpoint.names import LONGEST_SHOWN, listed, shard_name_problem, shown
from evomerge.checkpoint.strict_json import JSONProblem, loads
from evomerge.errors import CheckpointError, UsageError


@pytest.mark.parametrize(
    ("spoken", "word"),
    [
        ("bfloat16", "BF16"),
        ("bf16", "BF16"),
        ("BF16", "BF16"),
        ("torch.float16", "F16"),
        ("half", "F16"),
        ("float32", "F32"),
        (" FP32 ", "F32"),
        ("float64", "F64"),
    ],
)
def test_people_say_dtypes_in_many_ways(spoken: str, word: str) -> None:
    assert parse_dtype(spoken) == word


@pytest.mark.parametrize("spoken", ["", "int8", "I64", "float8", "bfloat"])
def test_only_floats_can_be_asked_for(spoken: str) -> None:
    with pytest.raises(UsageError, match="allowed: bfloat16"):
        parse_dtype(spoken)


def test_words_and_torch_dtypes_are_inverses() -> None:
    for word, dtype in DTYPES.items():
        if hasattr(torch, dtype.torch_name):
            assert dtype_word(torch_dtype(word)) == word
            assert torch_dtype(word).itemsize == dtype.size


def test_dtypes_without_a_counterpart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="cannot be stored"):
        dtype_word(torch.complex128)
    monkeypatch.delattr(torch, "float8_e5m2")
    with pytest.raises(CheckpointError, match="unknown to torch"):
        torch_dtype("F8_E5M2")
    with pytest.raises(CheckpointError, match="unknown to torch"):
        torch_dtype("F4")


@given(st.text())
def test_what_is_shown_is_printable_and_short(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= LONGEST_SHOWN
    if text.isprintable() and len(text) <= LONGEST_SHOWN:
        assert shown(text) == text


def test_paths_are_shown_whole() -> None:
    path = Path("/" + "folder/" * 40 + "new\nline")
    assert shown(path) == "/" + "folder/" * 40 + r"new\nline"


def test_long_lists_are_counted() -> None:
    assert listed([]) == ""
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed(list("abcdefg")) == "'a', 'b', 'c', 'd', 'e' and 2 more"


@given(st.text(max_size=8).map(lambda text: text + ".safetensors"))
def test_accepted_shard_names_stay_in_the_folder(name: str) -> None:
    if shard_name_problem(name) is None:
        assert "\\" not in name
        assert ".." not in name.split("/")
        assert not name.startswith("/")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(JSON)
def test_strict_json_reads_what_the_standard_writes(value: object) -> None:
    assert loads(json.dumps(value).encode()) == value
    assert loads(json.dumps(value, ensure_ascii=False, indent=1).encode()) == value


@given(st.binary(max_size=40))
def test_any_bytes_are_json_or_a_problem(data: bytes) -> None:
    try:
        loads(data)
    except JSONProblem as problem:
        assert str(problem).isprintable()


@pytest.mark.parametrize(
    "text", [b"NaN", b"-Infinity", b'{"a":1,"a":2}', b'"\\udc00"', b"1 2", b"", b"[1,]", b"'a'"]
)
def test_sloppy_json_is_refused(text: bytes) -> None:
    with pytest.raises(JSONProblem):
        loads(text)


def test_nothing_here_loads_torch_before_a_tensor_is_read() -> None:
    code = (
        "import sys, evomerge.checkpoint.checkpoint, evomerge.checkpoint.writer\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
