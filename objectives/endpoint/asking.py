"""Items as requests to an OpenAI-compatible server, and its answers as observations."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from evomerge.errors import UsageError
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.completions import (
    continuation,
    label_nats,
    written,
    written_margin,
)
from evomerge.objectives.endpoint.query import Query
from evomerge.objectives.jsonl_items import ExactMatch, Item, MultipleChoice, Passage
from evomerge.objectives.matching import Matcher
from evomerge.objectives.prompts import Shots, Wording, between, chat_messages, plain_prompt

Scoring = Literal["echo", "labels", "match", "judge"]

TEMPLATE = 64
"""Tokens that a server's chat template may add, beyond a token for each byte of the request."""

_STOPS = 4
"""Stop texts that the protocol takes; more are looked for in what was written."""


@dataclass(frozen=True)
class Asking:
    """How items are put to the server.

    Attributes:
        stop: texts that end a written answer.
        limit: tokens of a written answer.
        top: how many of the likeliest tokens to ask for.
    """

    api: Literal["completions", "chat"]
    scoring: Scoring
    wording: Wording
    shots: Shots
    stop: tuple[str, ...]
    limit: int
    top: int

    def observe(
        self,
        client: Client,
        items: Sequence[Item],
        fields: Mapping[str, Any],
        address: Mapping[str, Any] | None,
    ) -> list[Any]:
        """What the server says, item by item.

        Args:
            fields: of every body: the model and whatever else tells the candidate.
            address: the same for the address of answers; None for equal.

        Returns:
            for ``echo`` a list of ``[nats, tokens, bytes, characters]``, one for each choice or
            answer; for ``labels`` the same of each label, or None where none is among the
            likeliest tokens; else ``text``, ``margin`` and whether it is ``whole``.
        """
        if self.scoring == "echo":
            return self._echoed(client, items, fields, address)
        bodies = [self._body(item) for item in items]
        answers = client.ask([self._query(body, fields, address) for body in bodies])
        if self.scoring == "labels":
            return [
                _labels(written(answer), cast(MultipleChoice, item))
                for answer, item in zip(answers, items, strict=True)
            ]
        return [self._read(answer, item) for answer, item in zip(answers, items, strict=True)]

    def _echoed(
        self,
        client: Client,
        items: Sequence[Item],
        fields: Mapping[str, Any],
        address: Mapping[str, Any] | None,
    ) -> list[Any]:
        asked = [
            (i, text, *self._parts(item, text))
            for i, item in enumerate(items)
            for text in _continuations(item)
        ]
        queries = [
            self._query(
                {"prompt": prompt + scored, "max_tokens": 0, "echo": True, "logprobs": 1,
                 "temperature": 0},
                fields, address,
            )
            for _, _, prompt, scored in asked
        ]  # fmt: skip
        found: list[list[Any]] = [[] for _ in items]
        for (i, text, prompt, scored), answer in zip(asked, client.ask(queries), strict=True):
            nats, tokens = continuation(answer, prompt, scored)
            found[i].append([nats, tokens, len(text.encode()), len(text)])
        return found

    def _parts(self, item: Item, text: str) -> tuple[str, str]:
        """The prompt, and the text with what stands between them, which is scored with it."""
        if isinstance(item, Passage):
            return item.prompt, text
        prompt = plain_prompt(item, self.shots.of(item), self.wording)
        return prompt, between(prompt, text, self.wording.delimiter) + text

    def _body(self, item: Item) -> dict[str, Any]:
        """The question of an item that is answered by a next token, or in words."""
        labels = self.scoring == "labels"
        body: dict[str, Any] = {"max_tokens": 1 if labels else self.limit, "temperature": 0}
        if not labels and self.stop:
            body["stop"] = list(self.stop[:_STOPS])
        shots = self.shots.of(item)
        if self.api == "chat":
            messages = chat_messages(item, shots, self.wording)
            return body | {
                "messages": [dict(message) for message in messages],
                "logprobs": True,
                "top_logprobs": self.top,
            }
        prompt = plain_prompt(item, shots, self.wording)
        return body | {"prompt": prompt, "logprobs": self.top}

    def _query(
        self, body: Mapping[str, Any], fields: Mapping[str, Any], address: Mapping[str, Any] | None
    ) -> Query:
        path = "/chat/completions" if self.api == "chat" else "/completions"
        whole = {**body, **fields}
        return Query(
            whole,
            path=path,
            address=None if address is None else {**body, **address},
            tokens=int(whole["max_tokens"]) + TEMPLATE,
        )

    def _read(self, answer: Any, item: Item) -> dict[str, Any]:
        said = written(answer)
        matcher = Matcher(cast(ExactMatch, item).answers, self.stop)
        over = said.finish != "length" or matcher.stops(said.text)
        return {
            "text": said.text,
            "margin": written_margin(said, matcher),
            "whole": bool(over and matcher.said(said.text)),
        }


def lettered(item: MultipleChoice) -> MultipleChoice:
    """The choices listed in the prompt under letters; the letters are the choices then.

    Raises:
        UsageError: if there are more choices than letters.
    """
    if len(item.choices) > len(string.ascii_uppercase):
        raise UsageError("there are more choices than letters", place=item.place)
    letters = string.ascii_uppercase[: len(item.choices)]
    lines = [f"{letter}. {text}" for letter, text in zip(letters, item.choices, strict=True)]
    prompt = "\n".join([item.prompt, *lines, "Answer:"])
    return replace(item, prompt=prompt, choices=tuple(letters))


def spelled(item: MultipleChoice, asked: MultipleChoice) -> ExactMatch:
    """For servers that tell no probabilities: right are the letter, the choice, and both."""
    label, text = asked.choices[item.right], item.choices[item.right]
    answers = dict.fromkeys((label, f"{label}.", f"{label}. {text}", text))
    return ExactMatch(asked.prompt, tuple(answers), item.place)


def _continuations(item: Item) -> tuple[str, ...]:
    if isinstance(item, MultipleChoice):
        return item.choices
    return (item.text,) if isinstance(item, Passage) else item.answers


def _labels(said: Any, item: MultipleChoice) -> list[list[float]] | None:
    found = label_nats(said, item.choices)
    return None if found is None else [[nats, 1, 1, 1] for nats in found]
