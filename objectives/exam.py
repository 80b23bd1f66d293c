"""What objectives of JSONL items share of their options: the items, and what is asked with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from evomerge.objectives.prompts import Shots, Wording
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
"""Names that `Exam.read` takes of an objective's options."""


@dataclass(frozen=True)
class Style:
    """How items of a kind are asked.

    Attributes:
        metrics: what their answers tell, the default first.
        form: the item as it is asked.
    """

    metrics: Sequence[str]
    form: Callable[[Item], Item] = lambda item: item


@dataclass(frozen=True)
class Exam:
    """Items of one kind, and all that the options say of asking them.

    Attributes:
        path: of the items.
        stop: texts that end a written answer.
        limit: the most tokens of one; None for what the objective thinks best.
    """

    path: Path
    kind: Kind
    items: tuple[Item, ...]
    metrics: Metrics
    normalize: Normalization
    stop: tuple[str, ...]
    limit: int | None
    wording: Wording
    shots: Shots

    @classmethod
    def read(
        cls,
        options: Mapping[str, Any],
        folder: Path,
        style: Callable[[Kind], Style] = lambda kind: Style(METRICS[kind]),
    ) -> Exam:
        """From `OPTIONS`.

        Args:
            folder: what relative paths start from.
            style: of a kind of items; by default as they are, for all metrics.

        Raises:
            UsageError: if an option or an item is not in order; for an item with ``file:line``.
        """
        path = folder / Path(read.required_text(options, "items", "items.jsonl")).expanduser()
        lines = read_items(path)
        chosen = read.choice(options, "kind", ("auto", *KINDS))
        kind: Kind = common_kind(lines) if chosen == "auto" else cast(Kind, chosen)
        asked = style(kind)
        items = tuple(asked.form(parse(line, kind)) for line in lines)
        separator = read.text(options, "separator")
        return cls(
            path=path,
            kind=kind,
            items=items,
            metrics=Metrics.read(options.get("metrics"), asked.metrics),
            normalize=cast(Normalization, read.choice(options, "normalize", NORMALIZATIONS)),
            stop=stop_texts(options.get("stop", "\n")),
            limit=read.count(options, "max_new_tokens"),
            wording=Wording(
                read.text(options, "delimiter"),
                Wording.separator if separator is None else separator,
                read.text(options, "system"),
            ),
            shots=_worked_examples(options, folder, kind, items, asked.form),
        )

    @property
    def writes(self) -> bool:
        """Whether a metric is of what is written: items of exact match alone."""
        return bool(WRITTEN & set(self.metrics.wanted))

    @property
    def ends_early(self) -> bool:
        """Whether a written answer may end as soon as no more text can make it right."""
        return WRITTEN & set(self.metrics.wanted) == {"exact_match"}

    def matcher(self, item: ExactMatch) -> Matcher:
        """What compares a written answer with the accepted ones."""
        return Matcher(item.answers, self.stop)

    def verdict(
        self, metric: Metric, item: Item, found: Sequence[Likelihood], text: str
    ) -> Verdict:
        """What an item's answer is worth.

        Args:
            found: of each choice, accepted answer, or the text.
            text: what was written; empty where nothing was to be.
        """
        if isinstance(item, MultipleChoice):
            return judge_choice(metric, found, item.right, self.normalize)
        if isinstance(item, Passage):
            return judge_text(metric, found[0])
        return judge_answer(metric, self.matcher(item), text, found)

    def answer(
        self, verdicts: Callable[[Metric], Sequence[Verdict]], rates: Mapping[str, float]
    ) -> Scores | Mapping[str, Scores]:
        """What `evomerge.interfaces.Objective.evaluate` returns.

        Args:
            verdicts: by metric, in the order of the items.
            rates: shares of items that put them in doubt.
        """
        wanted = cast(Sequence[Metric], self.metrics.wanted)
        return self.metrics.answer({metric: _scores(verdicts(metric), rates) for metric in wanted})

    def chosen(self, items: Sequence[int] | None) -> list[Item]:
        """By index, repeats allowed; None for all."""
        return [self.items[i] for i in (range(len(self.items)) if items is None else items)]


def _scores(verdicts: Sequence[Verdict], rates: Mapping[str, float]) -> Scores:
    margins = [verdict.margin for verdict in verdicts if verdict.margin is not None]
    whole = len(margins) == len(verdicts)
    return Scores([verdict.score for verdict in verdicts], margins if whole else None, rates)


def _worked_examples(
    options: Mapping[str, Any],
    folder: Path,
    kind: Kind,
    items: Sequence[Item],
    form: Callable[[Item], Item],
) -> Shots:
    count, source = read.count(options, "shots") or 0, read.text(options, "shots_from")
    if source is not None and not count:
        raise UsageError("shots_from is a file of worked examples; say `shots`, how many")
    if kind == "perplexity" and count:
        raise UsageError("texts are read as they are; leave off `shots`")
    pool = items
    if source is not None:
        lines = read_items(folder / Path(source).expanduser())
        pool = [form(parse(line, kind)) for line in lines]
    shots = Shots(pool, count, seed=read.whole(options, "shots_seed"))
    for item in items:
        shots.of(item)
    return shots
