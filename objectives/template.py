"""The objective for any JSON API: a request to fill in, and paths into its answer.

::

    objective:
      type: template
      url: https://models.example.com/v2
      path: /score
      items: questions.jsonl
      request: {inputs: "{item.question}", mix: {math: "{weights.math}", code: "{weights.code}"}}
      score: $.outputs[0].score
      margin: $.outputs[0].margin

One request is one item. It is also the example to copy from for an endpoint objective of one's
own; see `evomerge.objectives.endpoint`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import Any

from evomerge.coefficients import Coefficients
from evomerge.errors import UsageError
from evomerge.interfaces import Need
from evomerge.objectives import options as read
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.failures import EndpointError
from evomerge.objectives.endpoint.numbers import PLACES, mixing_of, numbers
from evomerge.objectives.endpoint.options import OPTIONS, EndpointOptions
from evomerge.objectives.endpoint.paths import Path
from evomerge.objectives.endpoint.query import Query, Usage, usage_of
from evomerge.objectives.endpoint.requests import filled, places
from evomerge.objectives.items import items_of
from evomerge.trial import InvalidScoresError, Scores

OWN = (
    "path",
    "items",
    "request",
    "score",
    "margin",
    "match",
    "tokens",
    "usage",
    "build",
    "mixes",
)


class TemplateObjective:
    """Any JSON API that mixes by coefficients, as an `evomerge.interfaces.Objective`.

    Args:
        options: those of `EndpointOptions`, and: ``path`` behind the url; ``items``: a JSONL file
            or a count, none for one answer per candidate; ``request``: the body, with the places
            ``{item}``, ``{index}``, ``{weights}`` (by model, or by model and layer or group, as
            ``mixes.per`` says), ``{densities}``, ``{models}``, ``{weight_list}``,
            ``{coefficients}`` and ``{method}``; ``score``, ``margin``: paths to numbers;
            ``match``: a template of the text that the value at ``score`` must be to score 1;
            ``tokens``: the most that an answer adds to a request's own; ``usage``: paths to the
            counted ``prompt`` and ``completion`` tokens; ``build``: a ``path`` to get and where
            the server's ``value`` stands in the reply; ``mixes``: fields of `Mixing`.
        folder: what relative paths start from.

    Raises:
        UsageError: if an option or an item is not in order.
    """

    def __init__(self, options: Mapping[str, Any], *, folder: File) -> None:
        read.check_names(options, (*OPTIONS, *OWN))
        self.mixing = mixing_of(options.get("mixes", {}))
        self._usage = _paths("usage", options.get("usage"), ("prompt", "completion"))
        self.client = Client(EndpointOptions.read(options), usage=self._counted)
        self._path = read.text(options, "path") or ""
        self._items = items_of(options.get("items"), folder)
        self._request = options.get("request")
        if not isinstance(self._request, Mapping):
            raise UsageError('request is missing; say for example `request: {inputs: "{item}"}`')
        self._score = Path.parse(read.required_text(options, "score", "$.score"))
        margin = read.text(options, "margin")
        self._margin = None if margin is None else Path.parse(margin)
        self._match = options.get("match")
        self._tokens = read.count(options, "tokens") or 0
        self._build = _build(options.get("build"))
        self._check_places()

    @property
    def needs(self) -> Need:
        """The numbers alone."""
        return "coefficients"

    @property
    def count(self) -> int | None:
        """How many items there are; None without items."""
        return None if self._items is None else len(self._items)

    def observe(self, subject: Coefficients, items: Sequence[int] | None) -> list[Any]:
        """Score, and margin where there is one, as the server says them, item by item."""
        self._learn_build()
        values = [self._values(subject, i) for i in ([None] if items is None else items)]
        body = self._request
        queries = [Query(filled(body, v), path=self._path, tokens=self._tokens) for v in values]
        paths = [self._score] + ([] if self._margin is None else [self._margin])
        return [[path.of(answer) for path in paths] for answer in self.client.ask(queries)]

    def evaluate(self, subject: Coefficients, items: Sequence[int] | None) -> Scores:
        """Scores, and margins if there is a path to them.

        Raises:
            EndpointError: if the server fails, or says something else.
            InvalidScoresError: if what it says is no finite number.
        """
        seen = self.observe(subject, items)
        wanted = [None] if items is None else list(items)
        scores = [self._scored(said[0], i) for said, i in zip(seen, wanted, strict=True)]
        if self._margin is None:
            return Scores(scores)
        return Scores(scores, [_number(said[1], self._margin) for said in seen])

    def _scored(self, said: Any, item: int | None) -> float:
        if self._match is None:
            return _number(said, self._score)
        wanted = filled(self._match, self._item_values(item))
        return float(isinstance(said, str) and said.strip() == str(wanted).strip())

    def _values(self, subject: Coefficients, item: int | None) -> dict[str, Any]:
        return self._item_values(item) | numbers(subject, self.mixing)

    def _item_values(self, item: int | None) -> dict[str, Any]:
        if item is None or self._items is None:
            return {}
        return {"item": self._items[item], "index": item}

    def _check_places(self) -> None:
        """Refuse a place that no item and no candidate could fill."""
        known = list(PLACES)
        known += [] if self._items is None else ["item", "index"]
        for template, allowed in ((self._request, known), (self._match, ["item", "index"])):
            for place in places(template):
                word = place.partition(".")[0]
                if word not in allowed:
                    raise UsageError(f"{{{place}}} is no place here; known: {', '.join(allowed)}")
                if word == "item" and self._items is not None:
                    for i in range(len(self._items)):
                        filled(f"{{{place}}}", self._item_values(i))

    def _counted(self, answer: Any) -> Usage | None:
        """The tokens that an answer says it has cost."""
        if not self._usage:
            return usage_of(answer)
        try:
            counts = {name: int(path.of(answer)) for name, path in self._usage.items()}
        except (EndpointError, ValueError, TypeError):
            return None
        return Usage(counts.get("prompt", 0), counts.get("completion", 0))

    def _learn_build(self) -> None:
        if self._build and not self.client.build:
            query = Query(None, path=self._build[0], method="GET", pure=False)
            (answer,) = self.client.ask([query])
            self.client.build = str(self._build[1].of(answer))


def _number(said: Any, path: Path) -> float:
    if isinstance(said, bool):
        return float(said)
    if not isinstance(said, int | float) or not math.isfinite(said):
        raise InvalidScoresError(f"the answer has {said!r:.60} at {path.text}; a number is wanted")
    return float(said)


def _paths(what: str, given: Any, known: tuple[str, ...]) -> dict[str, Path]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(v, str) for v in given.values()):
        raise UsageError(f"{what}: a mapping of {', '.join(known)} to paths is wanted")
    read.check_names(given, known)
    return {name: Path.parse(text) for name, text in given.items()}


def _build(given: Any) -> tuple[str, Path] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or set(given) != {"path", "value"}:
        raise UsageError("build: {path: /version, value: $.version} is wanted")
    return str(given["path"]), Path.parse(str(given["value"]))
