"""YAML means what it looks like, says where it stands, and cannot fill the memory."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import CampaignError
from evomerge.recipe.strict_yaml import MAX_BYTES, MAX_DEPTH, load, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),  # text in YAML 1.1
        ("no", "no"),  # false in YAML 1.1
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("2024-01-01", "2024-01-01"),  # a date in YAML 1.1
        ("12:30:45", "12:30:45"),  # 45045 in YAML 1.1
        ("1.10", 1.1),
        ("010", 10),  # 8 in YAML 1.1
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("-.5", -0.5),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("nan", "nan"),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("é λ", "é λ"),
    ],
)
def test_a_scalar_means_what_it_looks_like(text: str, value: object) -> None:
    got = load(f"key: {text}\n", "c.yaml").plain()["key"]
    assert got == value
    assert type(got) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(load("key: .nan", "c.yaml").plain()["key"])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.text(st.characters(codec="ascii", exclude_categories=["Cc"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(json_values)
def test_json_is_read_as_json(value: object) -> None:
    assert load(json.dumps(value), "c.yaml").plain() == value


def test_every_value_knows_its_place() -> None:
    root = load("a: 1\nb:\n  - {c: x}\n  - 'é'\n", "c.yaml")
    assert isinstance(root.value, dict)
    assert str(root.keys["b"]) == "c.yaml:2:1"
    assert str(root.value["b"].value[0].value["c"].place) == "c.yaml:3:9"
    assert str(root.value["b"].value[1].place) == "c.yaml:4:5"


def test_an_alias_is_the_value_of_its_anchor() -> None:
    assert load("a: &x [1, 2]\nb: *x\n", "c.yaml").plain() == {"a": [1, 2], "b": [1, 2]}


BOMB = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "\n".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)
)
CHAIN = "a0: &a0 [1]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200))


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "c.yaml", "empty"),
        ("# nothing\n", "c.yaml", "empty"),
        ("a: 1\nb: 2\na: 3", "c.yaml:3:1", "'a' is given twice; it stands first at 1:1"),
        ("a: 1\n---\nb: 2", "c.yaml:2:1", "second document"),
        ("a: !!python/object:os.system x", "c.yaml:1:4", "tag"),
        ("a: !!str 5", "c.yaml:1:4", "quotes"),
        ("<<: {a: 1}", "c.yaml:1:1", "merge keys"),
        ("? [a]\n: 1", "c.yaml:1:3", "a key must be a word"),
        ("a: *x", "c.yaml:1:4", "no anchor &x"),
        ("a: &x [*x]", "c.yaml:1:8", "no anchor &x"),
        ("a: b: c", "c.yaml:1:5", "mapping values"),
        ("a:\n\t- b", "c.yaml:2:1", "a tab is not allowed"),
        ("a: [1, 2", "c.yaml:2:1", "not YAML"),
        ("a: 'x\n", "c.yaml:2:1", "quoted"),
        ("é: 'ü\x07'", "c.yaml:1:6", r"'\x07' is not allowed"),
        (f"a: {'9' * 5000}", "c.yaml:1:4", "40 digits"),
        ("[" * 5000, f"c.yaml:1:{MAX_DEPTH + 1}", "deeper"),
        (CHAIN, "c.yaml:29:12", "deeper"),
        (BOMB, "c.yaml:5:5", "more than 100,000 values"),
        ("#" * (MAX_BYTES + 1), "c.yaml", "bytes"),
    ],
)
def test_what_is_not_strict_yaml_is_refused_at_its_place(text: str, place: str, words: str) -> None:
    with pytest.raises(CampaignError) as caught:
        load(text, "c.yaml")
    assert caught.value.place == place
    assert words in caught.value.cause


def test_a_file_is_read_with_its_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    assert load(read(file), "c.yaml").plain() == {"a": 1}


def test_a_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="no such file") as caught:
        read(tmp_path / "c.yaml")
    assert "evomerge init" in str(caught.value)


def test_other_than_regular_text_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"a: 1\nb: \xe9\n")
    (tmp_path / "large").write_bytes(b"#" * (MAX_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")
    for name, words in [("latin", "UTF-8"), ("large", "bytes"), ("pipe", "not a file")]:
        with pytest.raises(CampaignError, match=words):
            read(tmp_path / name)
    with pytest.raises(CampaignError, match="not a file"):
        read(tmp_path)
    with pytest.raises(CampaignError, match="cannot be read"):
        read(Path("a\0b"))
