"""A model that judges what another has written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.errors import UsageError
from evomerge.objectives import options as read
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.completions import written
from evomerge.objectives.endpoint.options import OPTIONS, EndpointOptions
from evomerge.objectives.endpoint.query import Desk, Query
from evomerge.objectives.endpoint.requests import filled, places

PROMPT = """\
Question:
{prompt}

Reference answer:
{reference}

Answer to be judged:
{answer}

How good is the answer, from 0 (wrong) to 10 (as good as the reference)?
Reply with the number alone.\
"""
_TOKENS = 16
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_PLACES = ("prompt", "reference", "answer")


class Judge:
    """Asks a chat model for a number.

    Args:
        options: those of `EndpointOptions` (``url`` is the judged endpoint's if it is missing),
            and ``model``; ``prompt``: a text with the places ``{prompt}``, ``{reference}`` and
            ``{answer}``; ``most``: the number of the best answer, 10.
        outer: the options of the objective.

    Raises:
        UsageError: if an option is not in order.
    """

    def __init__(self, options: Any, outer: Mapping[str, Any]) -> None:
        if not isinstance(options, Mapping):
            raise UsageError("judge: a mapping, such as {model: a-large-one}, is wanted")
        read.check_names(options, (*OPTIONS, "model", "prompt", "most"))
        shared = {} if "url" in options else {
            name: outer[name] for name in ("url", "api_key_env", "api_key_header") if name in outer
        }  # fmt: skip
        self.client = Client(EndpointOptions.read({**shared, **options}))
        self._model = read.required_text(options, "model", "a-large-one")
        self._prompt = read.text(options, "prompt") or PROMPT
        self._most = read.count(options, "most") or 10
        for place in places(self._prompt):
            if place not in _PLACES:
                raise UsageError(f"{{{place}}} is no place of a judge's prompt: {_PLACES}")

    def scores(self, judged: Sequence[Mapping[str, str]], desk: Desk) -> list[float | None]:
        """Scores in [0, 1]; None where the judge says no number in [0, most].

        Args:
            judged: prompt, reference and answer of each.
            desk: who pays.
        """
        self.client.desk = desk
        queries = [self._query(one) for one in judged]
        return [self._score(written(answer).text) for answer in self.client.ask(queries)]

    def _query(self, judged: Mapping[str, str]) -> Query:
        prompt = filled(self._prompt, judged)
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": _TOKENS,
            "temperature": 0,
        }
        return Query(body, path="/chat/completions", tokens=_TOKENS)

    def _score(self, text: str) -> float | None:
        found = _NUMBER.search(text)
        if found is None or not 0 <= float(found[0]) <= self._most:
            return None
        return float(found[0]) / self._most
