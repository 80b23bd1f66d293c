"""Questions put to OpenAI-style completions: prompts echoed with log-probabilities, and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.objectives.encoding import SPARE
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.completions import continuation, written
from evomerge.objectives.endpoint.query import Query
from evomerge.objectives.endpoint.questions import Questions, Seen

PATH = "/v1/completions"


@dataclass(frozen=True)
class Completing:
    """Asks a server whose url is its root."""

    client: Client
    questions: Questions

    def seen(
        self,
        items: Sequence[int] | None,
        fields: Mapping[str, Any],
        address: Mapping[str, Any],
    ) -> list[Seen]:
        """What the server says of each item.

        Args:
            fields: of every body: what tells the candidate.
            address: the same as content, equal for equal candidates.

        Raises:
            EndpointDownError: if the server does not honour ``echo``.
        """
        asked = self.questions
        chosen = asked.chosen(items)
        texts = [(asked.prompt(item), asked.continuations(item)) for item in chosen]
        echo = {"max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
        pairs = [(prompt, text) for prompt, found in texts for text in found]
        answers = self._asked([{**echo, "prompt": p + text} for p, text in pairs], fields, address)
        likelihoods = iter(
            [continuation(answer, *pair) for answer, pair in zip(answers, pairs, strict=True)]
        )
        rows = [[next(likelihoods) for _ in found] for _, found in texts]
        said: Sequence[tuple[str | None, bool]] = [(None, True)] * len(chosen)
        if asked.writes:
            most = [asked.limit or max(tokens for _, tokens in row) + SPARE for row in rows]
            bodies = [
                # Four stop texts are what the protocol takes; more are looked for in the answer.
                {"prompt": prompt, "max_tokens": n, "stop": list(asked.stop[:4]), "temperature": 0}
                for (prompt, _), n in zip(texts, most, strict=True)
            ]
            answers = self._asked(bodies, fields, address)
            ends = [written(answer) for answer in answers]
            said = [(one.text, one.finish != "length") for one in ends]
        return [
            Seen(tuple(nats for nats, _ in row), tuple(tokens for _, tokens in row), *end)
            for row, end in zip(rows, said, strict=True)
        ]

    def _asked(
        self,
        bodies: Sequence[Mapping[str, Any]],
        fields: Mapping[str, Any],
        address: Mapping[str, Any],
    ) -> list[Any]:
        return self.client.ask(
            [
                Query(
                    {**body, **fields},
                    path=PATH,
                    address={**body, **address},
                    tokens=int(body["max_tokens"]),
                )
                for body in bodies
            ]
        )
