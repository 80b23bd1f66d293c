"""What a request asks: its body checked field by field, nothing else let through."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.errors import UsageError
from evomerge.recipe.reader import nearest
from evomerge.serve.limits import Limits

SCORE = ("model", "items", "models", "merge")
COMPLETION = (
    *("model", "prompt", "models", "merge", "max_tokens", "echo", "logprobs", "stop"),
    *("temperature", "top_p", "n", "best_of", "seed", "stream", "user"),
)
MOST_LOGPROBS = 20
MOST_STOPS = 16
USUAL_TOKENS = 16
"""What OpenAI's completions generate where ``max_tokens`` is not given."""


@dataclass(frozen=True)
class ScoreItem:
    """A prompt and the continuations whose likelihoods are wanted.

    Attributes:
        delimiter: between the two; None for the rule of `evomerge.objectives.encoding`.
    """

    prompt: str
    continuations: tuple[str, ...]
    delimiter: str | None = None


@dataclass(frozen=True)
class Completion:
    """A prompt to be continued, or only judged.

    Attributes:
        max_tokens: 0 generates nothing.
        echo: whether the prompt is part of the answer, with its log-probabilities.
        logprobs: how many of the most probable tokens are named at each place; None for no
            log-probabilities at all.
        stop: texts before which generation ends.
    """

    prompt: str
    max_tokens: int
    echo: bool
    logprobs: int | None
    stop: tuple[str, ...]


def score_items(body: Mapping[str, Any], limits: Limits) -> tuple[ScoreItem, ...]:
    """The items of a request to ``/v1/score``.

    Raises:
        UsageError: on a body that is none.
    """
    _only(body, SCORE)
    items = body.get("items")
    if not isinstance(items, list) or not 1 <= len(items) <= limits.items:
        raise UsageError(f"items is {_what(items)}; a list of 1 to {limits.items} is wanted")
    return tuple(_score_item(item, limits) for item in items)


def completions(body: Mapping[str, Any], limits: Limits) -> tuple[Completion, ...]:
    """The prompts of a request to ``/v1/completions``.

    Raises:
        UsageError: on a body that is none, and on what cannot be done: sampling, streams.
    """
    _only(body, COMPLETION)
    prompts = body.get("prompt")
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= limits.items:
        raise UsageError(
            f"prompt is a text, or a list of 1 to {limits.items}; got {_what(prompts)}"
        )
    _refuse_sampling(body)
    most = _whole(body, "max_tokens", 0, limits.new_tokens, USUAL_TOKENS)
    logprobs = _whole(body, "logprobs", 0, MOST_LOGPROBS, None)
    echo = _flag(body, "echo")
    if not most and not echo:
        raise UsageError("max_tokens 0 without echo asks for nothing")
    stop = _texts(body.get("stop"))
    return tuple(
        Completion(_text(prompt, "prompt"), most or 0, echo, logprobs, stop) for prompt in prompts
    )


def _score_item(item: object, limits: Limits) -> ScoreItem:
    if not isinstance(item, dict):
        raise UsageError(f"an item is {_what(item)}; an object is wanted")
    _only(item, ("prompt", "continuations", "delimiter"))
    texts = item.get("continuations")
    if not isinstance(texts, list) or not 1 <= len(texts) <= limits.continuations:
        wanted = f"a list of 1 to {limits.continuations} texts is wanted"
        raise UsageError(f"continuations is {_what(texts)}; {wanted}")
    found = tuple(_text(text, "a continuation") for text in texts)
    if not all(found):
        raise UsageError("a continuation is empty; there is nothing to score")
    between = item.get("delimiter")
    return ScoreItem(
        _text(item.get("prompt", ""), "prompt"),
        found,
        None if between is None else _text(between, "delimiter"),
    )


def _refuse_sampling(body: Mapping[str, Any]) -> None:
    """Answers are functions of mix and prompt, so that they can be compared and remembered."""
    for key, allowed in {"temperature": 0, "n": 1, "best_of": 1, "stream": False}.items():
        value = body.get(key)
        if value is not None and value != allowed:
            raise UsageError(f"{key} is {value!r:.60}; only {allowed!r} is possible: no sampling")


def _only(body: Mapping[str, Any], known: Collection[str]) -> None:
    for key in body:
        if key not in known:
            raise UsageError(f"unknown key {key!r:.60}{nearest(key, known)}")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what} is {_what(value)}; a text is wanted")
    return value


def _texts(value: object) -> tuple[str, ...]:
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or len(values) > MOST_STOPS or "" in values:
        raise UsageError(f"stop is {_what(value)}; up to {MOST_STOPS} texts are wanted")
    return tuple(_text(text, "stop") for text in values)


def _flag(body: Mapping[str, Any], key: str) -> bool:
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise UsageError(f"{key} is {_what(value)}; true or false is wanted")
    return bool(value)


def _whole(
    body: Mapping[str, Any], key: str, low: int, high: int, default: int | None
) -> int | None:
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{key} is {_what(value)}; a whole number, {low} to {high}, is wanted")
    return value


def _what(value: object) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, dict) else f"{value!r:.60}"
