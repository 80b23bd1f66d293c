"""The objective for OpenAI-compatible servers, whose candidate is a model's name or a field.

::

    objective: {type: openai, url: "http://127.0.0.1:8000/v1", model: "{folder}", items: x.jsonl}

The items are those of `evomerge.objectives.jsonl`. ``model`` and ``extra`` say how a candidate
reaches the server: ``{folder}``, the merge as a checkpoint folder that the server can read, or
``{candidate}``, ``{weights}`` and the other places of `evomerge.objectives.template` for a server
that mixes by itself. How an answer is scored depends on what the server tells:

- ``echo``: log-probabilities of whole continuations, echoed behind the prompt; completions only;
- ``labels``: log-probabilities of the choices' letters as the next token;
- ``match``: what the model writes, compared with the answers;
- ``judge``: what the model writes, judged by another model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from evomerge.coefficients import Coefficients, Mixing
from evomerge.errors import UsageError
from evomerge.interfaces import Need
from evomerge.objectives import options as read
from evomerge.objectives.endpoint.asking import Asking, Scoring, lettered, spelled
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.judge import Judge
from evomerge.objectives.endpoint.numbers import PLACES, mixing_of, numbers
from evomerge.objectives.endpoint.options import OPTIONS, EndpointOptions
from evomerge.objectives.endpoint.requests import filled, places
from evomerge.objectives.items import read_items
from evomerge.objectives.jsonl_items import (
    KINDS,
    ExactMatch,
    Item,
    Kind,
    MultipleChoice,
    common_kind,
    parse,
    stop_texts,
)
from evomerge.objectives.matching import Matcher
from evomerge.objectives.metrics import Metrics
from evomerge.objectives.prompts import Shots, Wording, reference
from evomerge.objectives.verdicts import (
    METRICS,
    NORMALIZATIONS,
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
    "model", "extra", "api", "scoring", "labels", "top", "judge", "mixes",
    "items", "kind", "metrics", "normalize", "stop", "max_new_tokens", "delimiter", "separator",
    "system", "shots", "shots_from", "shots_seed",
)  # fmt: skip
LIMIT = 64
"""Tokens of an answer unless the campaign says otherwise."""

_SCORINGS: Mapping[Kind, tuple[Scoring, ...]] = {
    "multiple_choice": ("echo", "labels", "match"),
    "exact_match": ("match", "echo", "judge"),
    "perplexity": ("echo",),
}


class OpenaiObjective:
    """An OpenAI-compatible server as an `evomerge.interfaces.Objective`.

    Args:
        options: those of `EndpointOptions`, and: ``model``, ``extra`` (fields of every request's
            body) with places; ``api``: completions or chat; ``scoring`` as in the module's
            docstring, by default the first that the items and the api allow; ``labels``: letters
            or choices; ``top``: how many of the likeliest tokens to ask for; ``judge``: see
            `evomerge.objectives.endpoint.judge.Judge`; ``mixes``: fields of `Mixing`; and of
            `evomerge.objectives.jsonl`: ``items``, ``kind``, ``metrics``, ``normalize``,
            ``stop``, ``max_new_tokens``, ``delimiter``, ``separator``, ``system``, ``shots``,
            ``shots_from``, ``shots_seed``.
        folder: what relative paths start from.

    Raises:
        UsageError: if an option or an item is not in order.
    """

    def __init__(self, options: Mapping[str, Any], *, folder: Path) -> None:
        read.check_names(options, (*OPTIONS, *OWN))
        self.client = Client(EndpointOptions.read(options))
        self._model = read.required_text(options, "model", '"{folder}"')
        self._extra = options.get("extra", {})
        if not isinstance(self._extra, Mapping):
            raise UsageError("extra: a mapping of fields is wanted")
        self._places = self._checked_places()
        self.mixing: Mixing | None = (
            None if self.needs == "folder" else mixing_of(options.get("mixes", {}))
        )
        api = cast(
            Literal["completions", "chat"], read.choice(options, "api", ("completions", "chat"))
        )
        self._kind, items, self._scoring = _items_of(options, folder, api)
        self._items = tuple(_worded(item, self._scoring, options) for item in items)
        self._metrics = Metrics.read(options.get("metrics"), _known(self._kind, self._scoring))
        self._normalize = cast(Normalization, read.choice(options, "normalize", NORMALIZATIONS))
        self._stop = stop_texts(options.get("stop", "\n"))
        judge = options.get("judge")
        if (judge is None) == (self._scoring == "judge"):
            raise UsageError("`judge` and `scoring: judge` go together: say both")
        self._judge = None if judge is None else Judge(judge, options)
        self._asking = Asking(
            api=api,
            scoring=self._scoring,
            wording=Wording(
                read.text(options, "delimiter"),
                read.text(options, "separator") or Wording.separator,
                read.text(options, "system"),
            ),
            shots=self._worked_examples(options, folder),
            stop=self._stop,
            limit=read.count(options, "max_new_tokens") or LIMIT,
            top=read.count(options, "top") or (20 if api == "chat" else 5),
        )

    @property
    def needs(self) -> Need:
        """A folder where the model's name holds one, else the numbers."""
        return "folder" if "folder" in self._places else "coefficients"

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self._items)

    def observe(self, subject: Coefficients | Path, items: Sequence[int] | None) -> list[Any]:
        """Log-probabilities, or what was written, item by item; see `Asking.observe`."""
        values, name = self._values(subject)
        fields = {"model": self._model, **self._extra}
        wanted = [self._items[i] for i in (range(self.count) if items is None else items)]
        return self._asking.observe(
            self.client,
            wanted,
            filled(fields, values),
            filled(fields, {**values, "folder": name}) if "folder" in values else None,
        )

    def evaluate(
        self, subject: Coefficients | Path, items: Sequence[int] | None
    ) -> Scores | Mapping[str, Scores]:
        """Scores and margins in the order of the items; the share of invalid answers with them.

        Raises:
            EndpointError: if the server fails, or does not tell what `scoring` needs.
        """
        seen = self.observe(subject, items)
        wanted = [self._items[i] for i in (range(self.count) if items is None else items)]
        if self._scoring == "judge":
            return self._metrics.answer({"judge": self._judged(wanted, seen)})
        invalid = [_is_invalid(said) for said in seen]
        rates = {"invalid": sum(invalid) / len(invalid)} if any(invalid) else {}
        found: dict[str, Scores] = {}
        for metric in self._metrics.wanted:
            verdicts = [
                self._verdict(cast(Metric, metric), item, said)
                for item, said in zip(wanted, seen, strict=True)
            ]
            margins = [verdict.margin for verdict in verdicts if verdict.margin is not None]
            whole = len(margins) == len(verdicts)
            found[metric] = Scores([v.score for v in verdicts], margins if whole else None, rates)
        return self._metrics.answer(found)

    def _verdict(self, metric: Metric, item: Item, said: Any) -> Verdict:
        if isinstance(item, MultipleChoice):
            if said is None:  # no label among the likeliest tokens: all alike, and so wrong
                said = [[0.0, 1, 1, 1] for _ in item.choices]
            return judge_choice(metric, _likelihoods(said), item.right, self._normalize)
        if self._scoring == "echo":
            best = max(_likelihoods(said), key=lambda one: one.per("tokens"))
            return judge_text(metric, best)
        matcher = Matcher(cast(ExactMatch, item).answers, self._stop)
        sure = [Likelihood(0.0, 1, 1, 1)]
        score = judge_answer(metric, matcher, said["text"], sure).score
        return Verdict(score, said["margin"])

    def _judged(self, items: Sequence[Item], seen: Sequence[Any]) -> Scores:
        """An answer that the judge has no number for scores 0 and counts as invalid."""
        assert self._judge is not None
        judged = [
            {"prompt": item.prompt, "reference": reference(item), "answer": said["text"]}
            for item, said in zip(items, seen, strict=True)
        ]
        scores = self._judge.scores(judged, self.client.desk)
        missing = sum(score is None for score in scores) / len(scores)
        return Scores(
            [score or 0.0 for score in scores], None, {"invalid": missing} if missing else {}
        )

    def _values(self, subject: Coefficients | Path) -> tuple[dict[str, Any], str]:
        """Values of all places, and the candidate's name."""
        if isinstance(subject, Path):
            return {"folder": str(subject), "candidate": subject.name}, subject.name
        assert self.mixing is not None
        values = numbers(subject, self.mixing)
        return values, values["candidate"]

    def _checked_places(self) -> frozenset[str]:
        found = frozenset(place.partition(".")[0] for place in places([self._model, self._extra]))
        known = ("folder", "candidate") if "folder" in found else (*PLACES, "folder")
        for place in sorted(found):
            if place not in known:
                raise UsageError(f"{{{place}}} is no place here; known: {', '.join(known)}")
        if not found - {"method", "models"}:
            raise UsageError(
                "neither model nor extra tells candidates apart; say for example "
                '`model: "{folder}"`, or `extra: {mix: "{weights}"}`'
            )
        return found

    def _worked_examples(self, options: Mapping[str, Any], folder: Path) -> Shots:
        count, source = read.count(options, "shots") or 0, read.text(options, "shots_from")
        pool: Sequence[Item] = self._items
        if source is not None:
            lines = read_items(folder / Path(source).expanduser())
            pool = [_worded(parse(line, self._kind), self._scoring, options) for line in lines]
        shots = Shots(pool, count, seed=read.whole(options, "shots_seed"))
        for item in self._items:
            shots.of(item)
        return shots


def _items_of(
    options: Mapping[str, Any], folder: Path, api: str
) -> tuple[Kind, tuple[Item, ...], Scoring]:
    path = folder / Path(read.required_text(options, "items", "items.jsonl")).expanduser()
    lines = read_items(path)
    chosen = read.choice(options, "kind", ("auto", *KINDS))
    kind = common_kind(lines) if chosen == "auto" else cast(Kind, chosen)
    allowed = tuple(s for s in _SCORINGS[kind] if s != "echo" or api == "completions")
    if not allowed:
        raise UsageError(f"items of the kind {kind} need `api: completions`, which can echo")
    scoring = cast(Scoring, read.choice(options, "scoring", allowed))
    return kind, tuple(parse(line, kind) for line in lines), scoring


def _worded(item: Item, scoring: Scoring, options: Mapping[str, Any]) -> Item:
    """The item as it is asked: with lettered choices where letters are the answers."""
    if not isinstance(item, MultipleChoice) or scoring == "echo":
        return item
    letters = read.choice(options, "labels", ("letters", "choices")) == "letters"
    asked = lettered(item) if letters else item
    return asked if scoring == "labels" else spelled(item, asked)


def _known(kind: Kind, scoring: Scoring) -> tuple[str, ...]:
    """Metrics that a scoring can tell; the first is the default."""
    if scoring == "judge":
        return ("judge",)
    if scoring == "labels":
        return ("accuracy", "probability")
    if scoring == "match":
        return ("exact_match", "contains", "f1")
    return METRICS["perplexity"] if kind == "exact_match" else METRICS[kind]


def _likelihoods(said: Sequence[Sequence[float]]) -> list[Likelihood]:
    return [Likelihood(nats, int(n), int(size), int(chars)) for nats, n, size, chars in said]


def _is_invalid(said: Any) -> bool:
    """Whether an answer was no answer: no label, nothing written, or no end."""
    return said is None or (isinstance(said, Mapping) and not said["whole"])
