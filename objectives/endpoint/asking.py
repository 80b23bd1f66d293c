"""Items as requests to an OpenAI-compatible server, and what it says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from evomerge.objectives.encoding import SPARE
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.completions import (
    continuation,
    label_nats,
    written,
    written_margin,
)
from evomerge.objectives.endpoint.query import Query
from evomerge.objectives.endpoint.questions import LIMIT, Questions, Seen
from evomerge.objectives.jsonl_items import ExactMatch, Item, MultipleChoice
from evomerge.objectives.matching import Matcher

TEMPLATE = 64
"""Tokens that a server's chat template may add, beyond a token for each byte of the request."""

_STOPS = 4
"""Stop texts that the protocol takes; more are looked for in what was written."""


@dataclass(frozen=True)
class Asking:
    """How items are put to the server.

    Attributes:
        api: completions or chat.
        top: how many of the likeliest tokens to ask for.
        root: what stands between the client's url and the api's name.
    """

    client: Client
    questions: Questions
    api: Literal["completions", "chat"] = "completions"
    top: int = 5
    root: str = ""

    def seen(
        self,
        items: Sequence[int] | None,
        fields: Mapping[str, Any],
        address: Mapping[str, Any] | None,
    ) -> list[Seen]:
        """What the server says of each item.

        Args:
            fields: of every body: the model and whatever else tells the candidate.
            address: the same as content, equal for equal candidates; None where it is `fields`.

        Raises:
            EndpointDownError: if the server does not tell what the scoring needs.
        """
        chosen = self.questions.chosen(items)
        if self.questions.scoring == "echo":
            return self._echoed(chosen, fields, address)
        labels = self.questions.scoring == "labels"
        bodies = [
            self._told(item, 1 if labels else self.questions.limit or LIMIT) for item in chosen
        ]
        answers = self._answers(bodies, fields, address)
        read = _label if labels else self._text
        return [read(answer, item) for answer, item in zip(answers, chosen, strict=True)]

    def _echoed(
        self,
        chosen: Sequence[Item],
        fields: Mapping[str, Any],
        address: Mapping[str, Any] | None,
    ) -> list[Seen]:
        """Likelihoods of continuations behind their prompts, and what is written behind these."""
        asked = self.questions
        texts = [(asked.prompt(item), asked.continuations(item)) for item in chosen]
        echo = {"max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
        pairs = [(prompt, text) for prompt, found in texts for text in found]
        answers = self._answers(
            [{**echo, "prompt": p + text} for p, text in pairs], fields, address
        )
        likelihoods = iter(
            [continuation(answer, *pair) for answer, pair in zip(answers, pairs, strict=True)]
        )
        rows = [[next(likelihoods) for _ in found] for _, found in texts]
        said: Sequence[tuple[str | None, bool]] = [(None, True)] * len(chosen)
        if asked.writes:
            most = [asked.limit or max(tokens for _, tokens in row) + SPARE for row in rows]
            bodies = [
                {"prompt": prompt, **self._writing(n)}
                for (prompt, _), n in zip(texts, most, strict=True)
            ]
            ends = [written(answer) for answer in self._answers(bodies, fields, address)]
            said = [(one.text, one.finish != "length") for one in ends]
        return [
            Seen(tuple(nats for nats, _ in row), tuple(tokens for _, tokens in row), *end)
            for row, end in zip(rows, said, strict=True)
        ]

    def _told(self, item: Item, limit: int) -> dict[str, Any]:
        """The question of an item that is answered by next tokens, and the likeliest of these."""
        body = self._writing(limit)
        if self.api == "chat":
            messages = [dict(message) for message in self.questions.messages(item)]
            return body | {"messages": messages, "logprobs": True, "top_logprobs": self.top}
        return body | {"prompt": self.questions.prompt(item), "logprobs": self.top}

    def _writing(self, limit: int) -> dict[str, Any]:
        stop = [] if self.questions.scoring == "labels" else list(self.questions.stop[:_STOPS])
        return {"max_tokens": limit, "temperature": 0} | ({"stop": stop} if stop else {})

    def _answers(
        self,
        bodies: Sequence[Mapping[str, Any]],
        fields: Mapping[str, Any],
        address: Mapping[str, Any] | None,
    ) -> list[Any]:
        chat = self.api == "chat"
        return self.client.ask(
            [
                Query(
                    {**body, **fields},
                    path=self.root + ("/chat/completions" if chat else "/completions"),
                    address=None if address is None else {**body, **address},
                    tokens=int({**body, **fields}["max_tokens"]) + (TEMPLATE if chat else 0),
                )
                for body in bodies
            ]
        )

    def _text(self, answer: Any, item: Item) -> Seen:
        said = written(answer)
        matcher = Matcher(cast(ExactMatch, item).answers, self.questions.stop)
        return Seen((), (), said.text, said.finish != "length", written_margin(said, matcher))


def _label(answer: Any, item: Item) -> Seen:
    """No log-probabilities where no label is among the likeliest tokens."""
    nats = label_nats(written(answer), cast(MultipleChoice, item).choices) or ()
    return Seen(tuple(nats), (1,) * len(nats))
