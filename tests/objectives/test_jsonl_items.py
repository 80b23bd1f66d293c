"""Item files: every shape that is read, and every one that is refused with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import UsageError
from evomerge.objectives.items import Line, read_items
from evomerge.objectives.jsonl_items import KINDS, kind_of, parse


def item(**keys: Any) -> Any:
    line = Line(keys, "items.jsonl:1")
    return parse(line, kind_of(line))


@pytest.mark.parametrize(
    ("keys", "right"),
    [
        ({"prompt": "p", "choices": ["x", "y", "z"], "answer": 2}, 2),
        ({"question": "p", "choices": ["x", "y"], "answer": "B"}, 1),
        ({"query": "p", "choices": ["x", "y"], "gold": 0}, 0),
        ({"ctx": "p", "endings": ["x", "y"], "label": "y"}, 1),
        ({"ctx": "p", "endings": ["x", "y"], "label": "1"}, 1),
        ({"ctx": "p", "endings": ["1", "0"], "label": "1"}, 0),
        ({"question": "p", "options": ["A", "B"], "answer": "B"}, 1),
        (
            {
                "question": "p",
                "choices": {"text": ["x", "y"], "label": ["1", "2"]},
                "answerKey": "2",
            },
            1,
        ),
    ],
)
def test_multiple_choice_in_the_fields_shapes(keys: dict[str, Any], right: int) -> None:
    assert item(**keys).right == right and item(**keys).prompt == "p"


def test_exact_match_and_perplexity() -> None:
    assert item(prompt="2+2=", answer="4").answers == ("4",)
    assert item(prompt="2+2=", answer=4).answers == ("4",)
    assert item(question="?", target=["yes", "yeah"]).answers == ("yes", "yeah")
    assert item(text="abc").text == "abc" and item(text="abc").prompt == ""
    assert item(prompt="a", text="bc").prompt == "a"


CHOICE = {"prompt": "p", "choices": ["x", "y"], "answer": 0}
BAD: dict[str, tuple[Any, str]] = {
    "no object": ([1, 2], "a JSON object is wanted"),
    "no keys": ({}, "neither multiple choice"),
    "no prompt": ({"choices": ["x", "y"], "answer": 0}, "prompt or question"),
    "no answer": ({"prompt": "p", "choices": ["x", "y"]}, "answer or gold"),
    "two prompts": (CHOICE | {"question": "q"}, "prompt and question say the same"),
    "two answers": (CHOICE | {"gold": 1}, "answer and gold say the same"),
    "no choices": (CHOICE | {"choices": []}, "holds 0; two or more"),
    "one choice": (CHOICE | {"choices": ["x"]}, "holds 1; two or more"),
    "empty choice": (CHOICE | {"choices": ["x", ""]}, "not empty"),
    "numbers": (CHOICE | {"choices": [1, 2]}, "list of texts"),
    "same choice": (CHOICE | {"choices": ["x", "x"]}, "same text twice"),
    "too high": (CHOICE | {"answer": 2}, "counted 0 to 1"),
    "negative": (CHOICE | {"answer": -1}, "counted 0 to 1"),
    "true": (CHOICE | {"answer": True}, "none of the choices"),
    "far letter": (CHOICE | {"answer": "C"}, "none of the choices"),
    "null": (CHOICE | {"answer": None}, "none of the choices"),
    "ambiguous": (CHOICE | {"choices": ["B", "A"], "answer": "A"}, "could mean two"),
    "prompt no text": ({"prompt": 3, "answer": "x"}, "a text is wanted"),
    "answer empty": ({"prompt": "p", "answer": " "}, "not empty"),
    "answers none": ({"prompt": "p", "answer": []}, "not empty"),
    "answer object": ({"prompt": "p", "answer": {}}, "not empty"),
    "text empty": ({"text": ""}, "text is empty"),
    "text a list": ({"text": ["a"]}, "a text is wanted"),
}


@pytest.mark.parametrize(("value", "words"), BAD.values(), ids=BAD)
def test_a_bad_item_is_refused_with_its_line(value: Any, words: str) -> None:
    line = Line(value, "items.jsonl:7")
    with pytest.raises(UsageError, match=words) as caught:
        parse(line, kind_of(line))
    assert caught.value.place == "items.jsonl:7"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stated_kind_is_held_to(kind: Any) -> None:
    with pytest.raises(UsageError, match="missing"):
        parse(Line({"x": 1}, "f:1"), kind)


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{'x': 1}", "not valid JSON"),
    "twice": (b'{"x": 1, "x": 2}', "occurs twice"),
    "NaN": (b'{"x": NaN}', "NaN is not JSON"),
    "infinite": (b'{"x": -Infinity}', "not JSON"),
    "two": (b"{} {}", "something follows"),
    "cut": (b'{"x": "', "not valid JSON"),
    "not UTF-8": (b'{"x": "\xff"}', "not UTF-8"),
}


@pytest.mark.parametrize(("text", "words"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_that_is_no_strict_json(text: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(b'{"x": 1}\n\n' + text + b"\n")
    with pytest.raises(UsageError, match=words) as caught:
        read_items(path)
    assert caught.value.place == f"{path}:3"


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"x": 1}\r\n  \r\n{"x": "\xe2\x80\xa8"}')
    found = read_items(path)
    assert [line.value for line in found] == [{"x": 1}, {"x": "\u2028"}]
    assert [line.place for line in found] == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_items(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match="no items"):
        read_items(tmp_path / "items.jsonl")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_items(tmp_path)
