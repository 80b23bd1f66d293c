"""What OpenAI-compatible servers answer, and what it says about probabilities.

Log-probabilities come in two shapes: lists beside each other, as completions have them
(``tokens``, ``token_logprobs``, ``top_logprobs``), and a list of tokens under ``content``, as chats
have them, and some servers' completions too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError
from evomerge.objectives.matching import Matcher


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    Attributes:
        nats: its log-probability; None where the server gives none, as of a text's first token.
        top: log-probabilities of the likeliest tokens at its place, by their text; may be empty.
    """

    text: str
    nats: float | None
    top: Mapping[str, float]


@dataclass(frozen=True)
class Written:
    """The first choice of an answer.

    Attributes:
        text: empty for none.
        finish: why it ended: ``stop``, ``length`` or what the server says.
        tokens: with log-probabilities; empty where the server gives none.
    """

    text: str
    finish: str
    tokens: tuple[Token, ...]


def written(answer: Any) -> Written:
    """The first choice, of a completion or a chat.

    Raises:
        EndpointError: if the answer has none.
    """
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (KeyError, IndexError, TypeError):
        raise EndpointError(f"the answer has no choice: {answer!r:.120}") from None
    finish = choice.get("finish_reason")
    return Written(text or "", str(finish), _tokens(choice.get("logprobs")))


def _tokens(found: Any) -> tuple[Token, ...]:
    if not isinstance(found, Mapping):
        return ()
    content = found.get("content")
    if isinstance(content, list):
        return tuple(
            Token(str(one.get("token", "")), _finite(one.get("logprob")), _top_of(one))
            for one in content
        )
    texts = found.get("tokens") or []
    nats = found.get("token_logprobs") or [None] * len(texts)
    tops = found.get("top_logprobs") or [None] * len(texts)
    return tuple(
        Token(str(text), _finite(value), _clean(top or {}))
        for text, value, top in zip(texts, nats, tops, strict=False)
    )


def _top_of(one: Mapping[str, Any]) -> dict[str, float]:
    found = one.get("top_logprobs") or []
    return _clean({str(top.get("token", "")): top.get("logprob") for top in found})


def _clean(top: Mapping[str, Any]) -> dict[str, float]:
    values = {text: _finite(value) for text, value in top.items()}
    return {text: value for text, value in values.items() if value is not None}


def _finite(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def continuation(answer: Any, prompt: str, text: str) -> tuple[float, int]:
    """The log-likelihood of a text after a prompt, both echoed, in nats; and its tokens.

    The text is scored from the first token that reaches into it. Counted from the end, for
    servers put tokens of their own before the prompt. What was written after it is left out.

    Raises:
        EndpointDownError: if the server does not echo, or gives no log-probabilities.
    """
    said = written(answer)
    if not said.text.startswith(prompt + text) or not said.tokens:
        raise EndpointDownError(
            "the server gives no log-probabilities of the prompt: it does not honour `echo` and "
            "`logprobs` together; use `scoring: labels` or `match`"
        )
    extra = len(said.text) - len(prompt + text)
    tokens = list(said.tokens)
    while extra > 0 and tokens:
        extra -= len(tokens.pop().text)
    scored: list[Token] = []
    left = len(text)
    # A token without text inside is the beginning of a character that the next one completes.
    while tokens and (left > 0 or not tokens[-1].text):
        token = tokens.pop()
        left -= len(token.text)
        scored += [token] if token.text or (scored and token.nats is not None) else []
    nats = [token.nats for token in scored if token.nats is not None]
    if not nats or len(nats) < len(scored) - (not prompt):
        raise EndpointError("a token of the answer has no log-probability")
    return math.fsum(nats), len(nats)


def label_nats(said: Written, labels: Sequence[str]) -> list[float] | None:
    """The log-probability of each label as the first token; None where no label is among the top.

    A label that is not among them gets that of the least of them: it is at most as probable.
    Spellings that differ by white space add up; a token that begins one label alone is its.

    Raises:
        EndpointDownError: if the server gives no such log-probabilities.
    """
    if not said.tokens or not said.tokens[0].top:
        raise EndpointDownError(
            "the server gives no log-probabilities of the likeliest tokens; use `scoring: match`"
        )
    top = said.tokens[0].top
    found: list[list[float]] = [[] for _ in labels]
    for text, nats in top.items():
        owner = _owner(text.strip(), labels)
        if owner is not None:
            found[owner].append(nats)
    if not any(found):
        return None
    least = min(top.values())
    return [_sum(values) if values else least for values in found]


def _owner(text: str, labels: Sequence[str]) -> int | None:
    exact = [i for i, label in enumerate(labels) if label.strip() == text]
    begun = [i for i, label in enumerate(labels) if text and label.strip().startswith(text)]
    owners = exact or begun
    return owners[0] if len(owners) == 1 else None


def _sum(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))


def written_margin(said: Written, matcher: Matcher) -> float | None:
    """How far a written answer was from flipping, in nats; None without log-probabilities.

    Of a right answer the smallest lead of a token over the next likeliest; of a wrong one, how
    far the token that would have gone on to an accepted answer was behind, where that is least.
    """
    if not said.tokens or not all(token.top and token.nats is not None for token in said.tokens):
        return None
    if matcher.matches(said.text):
        return min((_lead(token) for token in _counted(said, matcher)), default=0.0)
    return max(-_behind(said.tokens, answer.strip()) for answer in matcher.answers)


def _counted(said: Written, matcher: Matcher) -> list[Token]:
    """Tokens up to the one that completes the answer."""
    counted: list[Token] = []
    text = ""
    for token in said.tokens:
        counted.append(token)
        text += token.text
        if matcher.said(text) and matcher.said(text) == matcher.said(said.text):
            break
    return counted


def _lead(token: Token) -> float:
    nats = token.nats or 0.0
    others = [value for text, value in token.top.items() if text != token.text]
    return max(0.0, nats - max(others, default=nats))


def _behind(tokens: Sequence[Token], answer: str) -> float:
    """How far, at the first token that leaves the answer, the best that stays was behind."""
    rest = answer
    for i, token in enumerate(tokens):
        text = token.text.lstrip() if i == 0 else token.text
        if rest and text and rest.startswith(text):
            rest = rest[len(text) :]
            continue
        ways = [
            nats
            for other, nats in token.top.items()
            if other != token.text and other.strip() and rest.startswith(other.lstrip())
        ]
        best = max(ways, default=min(token.top.values()))
        return max(0.0, (token.nats or 0.0) - best)
    return 0.0
