"""The objective for models behind ``evomerge serve``: merged there by coefficients, judged here.

::

    objective: {type: evomerge_server, url: "http://127.0.0.1:8460", items: arithmetic.jsonl}

The items and metrics are those of `evomerge.objectives.jsonl`, and so are the scores and margins,
to rounding: the same likelihoods are computed where the weights are. The campaign's models are
called as the server calls them; `evomerge init URL` writes such a campaign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.coefficients import Coefficients, Mixing
from evomerge.interfaces import Need
from evomerge.objectives import options as read
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError
from evomerge.objectives.endpoint.options import OPTIONS, EndpointOptions
from evomerge.objectives.endpoint.query import Query
from evomerge.objectives.endpoint.questioning import Questioning
from evomerge.objectives.endpoint.questions import LIMIT, Questions, Seen
from evomerge.objectives.exam import OPTIONS as ITEM_OPTIONS
from evomerge.objectives.jsonl_items import Item


class EvomergeServerObjective(Questioning[Coefficients]):
    """Items asked of ``evomerge serve``, as an `evomerge.interfaces.Objective`.

    Args:
        options: those of `EndpointOptions` and of `Questions`.
        folder: what relative paths start from.

    Raises:
        UsageError: if an option or an item is not in order.
    """

    mixing: Mixing | None = None  # it mixes whatever a recipe can say

    def __init__(self, options: Mapping[str, Any], *, folder: Path) -> None:
        read.check_names(options, (*OPTIONS, *ITEM_OPTIONS))
        self.client = Client(EndpointOptions.read(options))
        super().__init__(Questions(options, folder))

    @property
    def needs(self) -> Need:
        """The numbers alone."""
        return "coefficients"

    def _seen(self, subject: Coefficients, items: Sequence[int] | None) -> list[Seen]:
        self._learn_build()
        chosen = self._questions.chosen(items)
        mix = {"models": list(subject.models), "merge": subject.merge}
        scored = self._answers([self._score(item, mix) for item in chosen])
        if not self._questions.writes:
            return [Seen(*_likelihoods(answer)) for answer in scored]
        written = self._answers([self._completion(item, mix) for item in chosen])
        return [
            Seen(*_likelihoods(likelihoods), *_written(text))
            for likelihoods, text in zip(scored, written, strict=True)
        ]

    def _score(self, item: Item, mix: Mapping[str, Any]) -> Query:
        """The continuations bring along what stands between them and the prompt."""
        asked = {
            "prompt": self._questions.prompt(item),
            "continuations": self._questions.continuations(item),
            "delimiter": "",
        }
        return Query({**mix, "items": [asked]}, path="/v1/score")

    def _completion(self, item: Item, mix: Mapping[str, Any]) -> Query:
        limit = self._questions.limit or LIMIT
        fields = {"max_tokens": limit, "stop": list(self._questions.stop), "temperature": 0}
        body = {**mix, **fields, "prompt": self._questions.prompt(item)}
        return Query(body, path="/v1/completions", tokens=limit)

    def _answers(self, queries: Sequence[Query]) -> list[Any]:
        """Answers of one and the same mix and build."""
        answers = self.client.ask(queries)
        for key in ("mix", "build"):
            said = {str(answer.get(key)) for answer in answers if isinstance(answer, Mapping)}
            if len(said) != 1 or (key == "build" and said != {self.client.build}):
                raise EndpointDownError(
                    f"answers to one candidate name different {key}s: the server, its pool or "
                    "its version has changed; a new study is needed (--fork)"
                )
        return answers

    def _learn_build(self) -> None:
        if not self.client.build:
            query = Query(None, path="/v1/models", method="GET", pure=False)
            (answer,) = self.client.ask([query])
            if not isinstance(answer, Mapping) or not isinstance(answer.get("build"), str):
                raise EndpointDownError("this is no `evomerge serve`: it does not say its build")
            self.client.build = answer["build"]


def _likelihoods(answer: Any) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Nats and tokens of an item's continuations."""
    try:
        parts = answer["items"][0]
        nats = tuple(float(part["log_likelihood"]) for part in parts)
        return nats, tuple(int(part["tokens"]) for part in parts)
    except (KeyError, IndexError, TypeError, ValueError):
        raise EndpointError(f"the answer has no likelihoods: {answer!r:.120}") from None


def _written(answer: Any) -> tuple[str, bool]:
    """What was written, and whether it came to its end."""
    try:
        choice = answer["choices"][0]
        return str(choice["text"]), choice["finish_reason"] == "stop"
    except (KeyError, IndexError, TypeError):
        raise EndpointError(f"the answer has no text: {answer!r:.120}") from None
