"""Items of language tasks, in the shapes common to the field.

::

    {"prompt": "2+2=", "choices": ["3", "4"], "answer": 1}        multiple choice
    {"prompt": "2+2=", "answer": "4"}                             exact match
    {"text": "It was the best of times"}                          perplexity

A prompt may also be called question, query, context or ctx; choices options or endings; an answer
gold, label, target or answerKey. Other keys are ignored.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evomerge.errors import UsageError
from evomerge.objectives.items import Line

Kind = Literal["multiple_choice", "exact_match", "perplexity"]
KINDS: tuple[Kind, ...] = ("multiple_choice", "exact_match", "perplexity")

PROMPT = ("prompt", "question", "query", "context", "ctx")
CHOICES = ("choices", "options", "endings")
ANSWER = ("answer", "gold", "label", "target", "answerKey")


@dataclass(frozen=True)
class MultipleChoice:
    """A prompt, two or more distinct continuations, and the index of the right one."""

    prompt: str
    choices: tuple[str, ...]
    right: int
    place: str


@dataclass(frozen=True)
class ExactMatch:
    """A prompt and one or more continuations that count as right."""

    prompt: str
    answers: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class Passage:
    """A text to be predicted, after a prompt that is not; the prompt may be empty."""

    prompt: str
    text: str
    place: str


Item = MultipleChoice | ExactMatch | Passage


def kind_of(line: Line) -> Kind:
    """What a line's keys make it.

    Raises:
        UsageError: if it is none of the three.
    """
    keys = _object(line)
    if any(key in keys for key in CHOICES):
        return "multiple_choice"
    if "text" in keys:
        return "perplexity"
    if any(key in keys for key in PROMPT) and any(key in keys for key in ANSWER):
        return "exact_match"
    raise UsageError(
        "an item with the keys "
        f"{', '.join(sorted(keys)) or '(none)'} is neither multiple choice (prompt, choices, "
        "answer), exact match (prompt, answer) nor perplexity (text)",
        place=line.place,
    )


def common_kind(lines: Sequence[Line]) -> Kind:
    """What all lines are.

    Raises:
        UsageError: if one is another than the first.
    """
    first = kind_of(lines[0])
    for line in lines:
        if (kind := kind_of(line)) != first:
            raise UsageError(
                f"this item is {kind}, but the first one is {first}; say `kind`, or split the file",
                place=line.place,
            )
    return first


def stop_texts(given: Any) -> tuple[str, ...]:
    """The option ``stop``: a text or a list of texts, none of them empty."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(t, str) and t for t in texts):
        raise UsageError(f"stop is {given!r:.60}; a text or a list of texts is wanted")
    return tuple(texts)


def parse(line: Line, kind: Kind) -> Item:
    """The item of a line.

    Raises:
        UsageError: with ``file:line``, if a key is missing, doubled under two names, or senseless.
    """
    if kind == "multiple_choice":
        return _multiple_choice(line)
    if kind == "exact_match":
        return ExactMatch(_text(line, PROMPT), _answers(line), line.place)
    prompt = _text(line, PROMPT) if any(key in _object(line) for key in PROMPT) else ""
    text = _text(line, ("text",))
    if not text:
        raise UsageError("text is empty", place=line.place)
    return Passage(prompt, text, line.place)


def _object(line: Line) -> Mapping[str, Any]:
    if not isinstance(line.value, dict):
        raise UsageError(
            f"an item is {line.value!r:.60}; a JSON object is wanted", place=line.place
        )
    return line.value


def _named(line: Line, names: tuple[str, ...]) -> tuple[str, Any]:
    """The one of several synonyms that a line has, and its value."""
    found = [name for name in names if name in _object(line)]
    if len(found) == 1:
        return found[0], line.value[found[0]]
    if not found:
        raise UsageError(f"{' or '.join(names)} is missing", place=line.place)
    raise UsageError(f"{' and '.join(found)} say the same; keep one", place=line.place)


def _text(line: Line, names: tuple[str, ...]) -> str:
    name, value = _named(line, names)
    if not isinstance(value, str):
        raise UsageError(f"{name} is {value!r:.60}; a text is wanted", place=line.place)
    return value


def _answers(line: Line) -> tuple[str, ...]:
    name, value = _named(line, ANSWER)
    values = value if isinstance(value, list) else [value]
    texts = tuple(
        str(v) if isinstance(v, int | float) and not isinstance(v, bool) else v for v in values
    )
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UsageError(
            f"{name} is {value!r:.60}; a text that is not empty, or a list of such, is wanted",
            place=line.place,
        )
    return texts


def _multiple_choice(line: Line) -> MultipleChoice:
    name, value = _named(line, CHOICES)
    labels = None
    if isinstance(value, dict) and {"text", "label"} <= set(value):  # as ARC has it
        value, labels = value["text"], value["label"]
    if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
        raise UsageError(
            f"{name} is {value!r:.60}; a list of texts that are not empty is wanted",
            place=line.place,
        )
    if len(value) < 2:
        raise UsageError(f"{name} holds {len(value)}; two or more are wanted", place=line.place)
    if len(set(value)) < len(value):
        raise UsageError(f"{name} holds the same text twice", place=line.place)
    return MultipleChoice(
        _text(line, PROMPT), tuple(value), _right(line, value, labels), line.place
    )


def _right(line: Line, choices: list[str], labels: Any) -> int:
    """Index of the right choice, from the choice itself, a label, a letter or an index."""
    name, value = _named(line, ANSWER)
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value < len(choices):
            return value
        raise UsageError(
            f"{name} is {value}, but choices are counted 0 to {len(choices) - 1}", place=line.place
        )
    letters = list(string.ascii_uppercase[: len(choices)])
    readings = {
        names.index(value)
        for names in (choices, labels if isinstance(labels, list) else letters)
        if value in names
    }
    if not readings and isinstance(value, str) and value in map(str, range(len(choices))):
        return int(value)  # as HellaSwag has it
    if len(readings) == 1:
        return min(readings, default=0)
    what = "could mean two of the choices" if readings else "is none of the choices"
    raise UsageError(
        f"{name} is {value!r:.60}, which {what}; an index, a letter or the choice itself is wanted",
        place=line.place,
    )
