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
from typing import Any, cast

from evomerge.coefficients import Coefficients, Mixing
from evomerge.interfaces import Need
from evomerge.objectives import options as read
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError
from evomerge.objectives.endpoint.options import OPTIONS, EndpointOptions
from evomerge.objectives.endpoint.query import Query
from evomerge.objectives.items import read_items
from evomerge.objectives.jsonl_items import (
    KINDS,
    ExactMatch,
    Item,
    Kind,
    MultipleChoice,
    Passage,
    common_kind,
    parse,
    stop_texts,
)
from evomerge.objectives.matching import Matcher
from evomerge.objectives.metrics import Metrics
from evomerge.objectives.prompts import Shots, Wording, plain_prompt
from evomerge.objectives.verdicts import (
    METRICS,
    NORMALIZATIONS,
    WRITTEN,
    Likelihood,
    Metric,
    Normalization,
    Verdict,
    judge_answer,
    judge_choice,
    judge_text,
)
from evomerge.trial import Scores

OWN = (
    "items", "kind", "metrics", "normalize", "stop", "max_new_tokens", "delimiter", "separator",
    "system", "shots", "shots_from", "shots_seed",
)  # fmt: skip
LIMIT = 64
"""Tokens of an answer unless the campaign says otherwise."""


class EvomergeServerObjective:
    """Items asked of ``evomerge serve``, as an `evomerge.interfaces.Objective`.

    Args:
        options: those of `EndpointOptions`, and of `evomerge.objectives.jsonl`: ``items``,
            ``kind``, ``metrics``, ``normalize``, ``stop``, ``max_new_tokens``, ``delimiter``,
            ``separator``, ``system``, ``shots``, ``shots_from``, ``shots_seed``.
        folder: what relative paths start from.

    Raises:
        UsageError: if an option or an item is not in order.
    """

    mixing: Mixing | None = None  # it mixes whatever a recipe can say

    def __init__(self, options: Mapping[str, Any], *, folder: Path) -> None:
        read.check_names(options, (*OPTIONS, *OWN))
        self.client = Client(EndpointOptions.read(options))
        path = folder / Path(read.required_text(options, "items", "items.jsonl")).expanduser()
        lines = read_items(path)
        kind = read.choice(options, "kind", ("auto", *KINDS))
        self._kind: Kind = common_kind(lines) if kind == "auto" else cast(Kind, kind)
        self._items = tuple(parse(line, self._kind) for line in lines)
        self._metrics = Metrics.read(options.get("metrics"), METRICS[self._kind])
        self._normalize = cast(Normalization, read.choice(options, "normalize", NORMALIZATIONS))
        self._stop = stop_texts(options.get("stop", "\n"))
        self._limit = read.count(options, "max_new_tokens") or LIMIT
        self._wording = Wording(
            read.text(options, "delimiter"),
            read.text(options, "separator") or Wording.separator,
            read.text(options, "system"),
        )
        self._shots = self._worked_examples(options, folder)

    @property
    def needs(self) -> Need:
        """The numbers alone."""
        return "coefficients"

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self._items)

    def observe(self, subject: Coefficients, items: Sequence[int] | None) -> list[Any]:
        """``{"nats": [[nats, tokens], ...], "text": ...}`` for each item; no text is None.

        Raises:
            EndpointError: if the server fails, or refuses the candidate or an item.
            EndpointDownError: if another server or pool answers than at first.
        """
        self._learn_build()
        mix = {"models": list(subject.models), "merge": subject.merge}
        wanted = [self._items[i] for i in (range(self.count) if items is None else items)]
        scores = [
            Query({**mix, **_scored(*self._asked(item))}, path="/v1/score") for item in wanted
        ]
        answers = self._answers(scores)
        found: list[Any] = [{"nats": _likelihoods(answer), "text": None} for answer in answers]
        if self._kind == "exact_match" and WRITTEN & set(self._metrics.wanted):
            for seen, text in zip(found, self._texts(wanted, mix), strict=True):
                seen["text"] = text
        return found

    def evaluate(
        self, subject: Coefficients, items: Sequence[int] | None
    ) -> Scores | Mapping[str, Scores]:
        """Scores and margins in the order of the items.

        Raises:
            EndpointError: if the server fails, or refuses the candidate or an item.
        """
        seen = self.observe(subject, items)
        wanted = [self._items[i] for i in (range(self.count) if items is None else items)]
        found: dict[str, Scores] = {}
        for metric in self._metrics.wanted:
            verdicts = [
                self._verdict(cast(Metric, metric), item, said)
                for item, said in zip(wanted, seen, strict=True)
            ]
            margins = [verdict.margin for verdict in verdicts if verdict.margin is not None]
            whole = len(margins) == len(verdicts)
            found[metric] = Scores([v.score for v in verdicts], margins if whole else None)
        return self._metrics.answer(found)

    def _verdict(self, metric: Metric, item: Item, said: Mapping[str, Any]) -> Verdict:
        found = [
            Likelihood(nats, tokens, len(text.encode()), len(text))
            for text, (nats, tokens) in zip(_continuations(item), said["nats"], strict=True)
        ]
        if isinstance(item, MultipleChoice):
            return judge_choice(metric, found, item.right, self._normalize)
        if isinstance(item, Passage):
            return judge_text(metric, found[0])
        matcher = Matcher(item.answers, self._stop)
        return judge_answer(metric, matcher, said["text"] or "", found)

    def _asked(self, item: Item) -> tuple[str, tuple[str, ...], str | None]:
        """Prompt, continuations, and what stands between them."""
        if isinstance(item, Passage):
            return item.prompt, (item.text,), ""
        prompt = plain_prompt(item, self._shots.of(item), self._wording)
        return prompt, _continuations(item), self._wording.delimiter

    def _texts(self, items: Sequence[Item], mix: Mapping[str, Any]) -> list[str]:
        """What the mix writes behind each prompt."""
        fields = {"max_tokens": self._limit, "stop": list(self._stop), "temperature": 0}
        queries = [
            Query(
                {**mix, **fields, "prompt": self._asked(item)[0]},
                path="/v1/completions",
                tokens=self._limit,
            )
            for item in items
        ]
        try:
            return [str(answer["choices"][0]["text"]) for answer in self._answers(queries)]
        except (KeyError, IndexError, TypeError):
            raise EndpointError("the server's completion has no text") from None

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

    def _worked_examples(self, options: Mapping[str, Any], folder: Path) -> Shots:
        count, source = read.count(options, "shots") or 0, read.text(options, "shots_from")
        pool: Sequence[Item] = self._items
        if source is not None:
            lines = read_items(folder / Path(source).expanduser())
            pool = [parse(line, self._kind) for line in lines]
        shots = Shots(pool, count, seed=read.whole(options, "shots_seed"))
        for item in self._items:
            shots.of(item)
        return shots


def _continuations(item: Item) -> tuple[str, ...]:
    if isinstance(item, MultipleChoice):
        return item.choices
    return item.answers if isinstance(item, ExactMatch) else (item.text,)


def _scored(prompt: str, continuations: Sequence[str], delimiter: str | None) -> dict[str, Any]:
    item = {"prompt": prompt, "continuations": list(continuations)}
    return {"items": [item if delimiter is None else {**item, "delimiter": delimiter}]}


def _likelihoods(answer: Any) -> list[list[float]]:
    try:
        return [[float(one["log_likelihood"]), int(one["tokens"])] for one in answer["items"][0]]
    except (KeyError, IndexError, TypeError, ValueError):
        raise EndpointError(f"the answer has no likelihoods: {answer!r:.120}") from None
