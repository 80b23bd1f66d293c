"""Items of `evomerge.objectives.jsonl` for servers: texts to be scored, prompts to go on from.

A server's objective finds the log-probabilities of continuations, and what is written behind a
prompt; what these are worth is decided here, as the local objective decides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from evomerge.errors import UsageError
from evomerge.objectives import options as read
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
from evomerge.objectives.prompts import Shots, Wording, between, plain_prompt
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

OPTIONS = (
    "items", "kind", "metrics", "normalize", "stop", "max_new_tokens", "delimiter", "separator",
    "system", "shots", "shots_from", "shots_seed",
)  # fmt: skip
"""Names that `Questions` takes of an objective's options."""


@dataclass(frozen=True)
class Seen:
    """What a server says of one item.

    Attributes:
        nats: log-probability of each continuation.
        tokens: how many tokens each of them has, 1 or more.
        text: what was written; None where nothing was to be.
        over: whether what was written came to an end.
    """

    nats: tuple[float, ...]
    tokens: tuple[int, ...]
    text: str | None = None
    over: bool = True

    def to_json(self) -> list[Any]:
        """As an observation."""
        return [list(self.nats), list(self.tokens), self.text, self.over]


class Questions:
    """All items of an objective.

    Args:
        options: `OPTIONS`, as `evomerge.objectives.jsonl.JsonlObjective` takes them.
        folder: what relative paths start from.

    Attributes:
        stop: texts that end a written answer.
        limit: the most tokens of one; None for what the longest accepted answer needs.
        writes: whether a metric needs what the model writes.

    Raises:
        UsageError: if an option or an item is not in order.
    """

    def __init__(self, options: Mapping[str, Any], folder: Path) -> None:
        path = folder / Path(read.required_text(options, "items", "items.jsonl")).expanduser()
        lines = read_items(path)
        kind = read.choice(options, "kind", ("auto", *KINDS))
        self._kind: Kind = common_kind(lines) if kind == "auto" else cast(Kind, kind)
        self._items = tuple(parse(line, self._kind) for line in lines)
        self._metrics = Metrics.read(options.get("metrics"), METRICS[self._kind])
        self._normalize = cast(Normalization, read.choice(options, "normalize", NORMALIZATIONS))
        self.stop = stop_texts(options.get("stop", "\n"))
        self.limit = read.count(options, "max_new_tokens")
        self.writes = self._kind == "exact_match" and bool(WRITTEN & set(self._metrics.wanted))
        separator = read.text(options, "separator")
        self._wording = Wording(
            read.text(options, "delimiter"),
            Wording.separator if separator is None else separator,
            read.text(options, "system"),
        )
        self._shots = self._worked_examples(options, folder)

    def __len__(self) -> int:
        return len(self._items)

    def chosen(self, items: Sequence[int] | None) -> list[Item]:
        """By index; None for all."""
        return [self._items[i] for i in (range(len(self)) if items is None else items)]

    def prompt(self, item: Item) -> str:
        """All that stands before the answer, but for what stands between."""
        if isinstance(item, Passage):
            return item.prompt
        return plain_prompt(item, self._shots.of(item), self._wording)

    def continuations(self, item: Item) -> list[str]:
        """What is scored behind the prompt: each text, and what stands between before it."""
        prompt, link = self.prompt(item), self._wording.delimiter
        if isinstance(item, Passage):
            link = ""
        return [between(prompt, text, link) + text for text in _texts(item)]

    def scores(self, items: Sequence[Item], seen: Sequence[Seen]) -> Scores | Mapping[str, Scores]:
        """What `evomerge.interfaces.Objective.evaluate` returns; unended answers are a rate."""
        invalid = sum(self._is_invalid(*pair) for pair in zip(items, seen, strict=True))
        rates = {"invalid": invalid / len(seen)} if invalid else {}
        found: dict[str, Scores] = {}
        for metric in self._metrics.wanted:
            verdicts = [
                self._verdict(cast(Metric, metric), item, said)
                for item, said in zip(items, seen, strict=True)
            ]
            margins = [verdict.margin for verdict in verdicts if verdict.margin is not None]
            whole = len(margins) == len(verdicts)
            found[metric] = Scores([v.score for v in verdicts], margins if whole else None, rates)
        return self._metrics.answer(found)

    def _is_invalid(self, item: Item, seen: Seen) -> bool:
        """Whether nothing was written, or more text could still change what it is worth."""
        if seen.text is None or not isinstance(item, ExactMatch):
            return False
        matcher = Matcher(item.answers, self.stop)
        exact = WRITTEN & set(self._metrics.wanted) == {"exact_match"}
        over = seen.over or matcher.stops(seen.text) or (exact and matcher.decided(seen.text))
        return not over or not matcher.said(seen.text)

    def _verdict(self, metric: Metric, item: Item, seen: Seen) -> Verdict:
        found = [
            Likelihood(nats, tokens, len(text.encode()), len(text))
            for text, nats, tokens in zip(_texts(item), seen.nats, seen.tokens, strict=True)
        ]
        if isinstance(item, MultipleChoice):
            return judge_choice(metric, found, item.right, self._normalize)
        if isinstance(item, Passage):
            return judge_text(metric, found[0])
        return judge_answer(metric, Matcher(item.answers, self.stop), seen.text or "", found)

    def _worked_examples(self, options: Mapping[str, Any], folder: Path) -> Shots:
        count, source = read.count(options, "shots") or 0, read.text(options, "shots_from")
        if self._kind == "perplexity" and count:
            raise UsageError("texts are read as they are; leave off `shots`")
        pool: Sequence[Item] = self._items
        if source is not None:
            lines = read_items(folder / Path(source).expanduser())
            pool = [parse(line, self._kind) for line in lines]
        shots = Shots(pool, count, seed=read.whole(options, "shots_seed"))
        for item in self._items:
            shots.of(item)
        return shots


def _texts(item: Item) -> tuple[str, ...]:
    if isinstance(item, MultipleChoice):
        return item.choices
    return item.answers if isinstance(item, ExactMatch) else (item.text,)
