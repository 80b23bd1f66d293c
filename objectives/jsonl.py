"""The objective for local causal language models on JSONL items.

::

    objective: {type: jsonl, items: arithmetic.jsonl}

Kinds of items are in `evomerge.objectives.jsonl_items`, metrics in `evomerge.objectives.verdicts`,
worked examples and chats in `evomerge.objectives.prompts`. An item's score and margin do not
depend on the items beside it. Importing this, and making an objective, loads no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evomerge.errors import UsageError
from evomerge.interfaces import Need
from evomerge.objectives import options as read
from evomerge.objectives.encoding import Encoded, Rules, encode
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
from evomerge.objectives.prompts import Shots, Wording, chat_messages, plain_prompt
from evomerge.objectives.subject import LanguageModel, LiveModel
from evomerge.objectives.verdicts import (
    METRICS,
    NORMALIZATIONS,
    WRITTEN,
    Metric,
    Normalization,
    Verdict,
    judge_answer,
    judge_choice,
    judge_text,
)
from evomerge.trial import Scores

if TYPE_CHECKING:
    from evomerge.objectives.batches import Batches
    from evomerge.objectives.judging import Bench

OPTIONS = (
    "items",
    "kind",
    "metrics",
    "batch_size",
    "normalize",
    "stop",
    "max_new_tokens",
    "delimiter",
    "truncate",
    "shots",
    "shots_from",
    "shots_seed",
    "separator",
    "system",
    "chat",
)
_log = logging.getLogger("evomerge")


class JsonlObjective:
    """Language items of one kind as an `evomerge.interfaces.Objective`.

    Args:
        options: ``items``: the JSONL file; ``kind``: multiple_choice, exact_match, perplexity, or
            auto, which looks at the items' keys; ``metrics``: see
            `evomerge.objectives.metrics.Metrics`; ``batch_size``: rows at a time, by default 8 on
            a CPU and 64 on a GPU; ``normalize``: none, bytes, chars or tokens, of choices;
            ``stop``: a text or texts that end an answer, by default a line's end;
            ``max_new_tokens`` and ``truncate`` as in `evomerge.objectives.encoding.Rules`;
            ``shots``: worked examples, from ``shots_from``, another file, or the other items, in
            an order by ``shots_seed``; ``chat``: through the model's chat template;
            ``delimiter``, ``separator`` and ``system`` as in
            `evomerge.objectives.prompts.Wording`.
        folder: what a relative path starts from.

    Raises:
        UsageError: if an option or an item is not in order; for an item with ``file:line``.
    """

    reads_logits = True  # so that fused logits are as good to it as one model's

    def __init__(self, options: Mapping[str, Any], *, folder: Path) -> None:
        read.check_names(options, OPTIONS)
        path = folder / Path(read.required_text(options, "items", "items.jsonl")).expanduser()
        kind = read.choice(options, "kind", ("auto", *KINDS))
        lines = read_items(path)
        self._kind: Kind = common_kind(lines) if kind == "auto" else cast(Kind, kind)
        self._items: tuple[Item, ...] = tuple(parse(line, self._kind) for line in lines)
        self._path = path
        self._metrics = Metrics.read(options.get("metrics"), METRICS[self._kind])
        self._batch_size = read.count(options, "batch_size")
        self._normalize = cast(Normalization, read.choice(options, "normalize", NORMALIZATIONS))
        self._stop = stop_texts(options.get("stop", "\n"))
        self._chat = read.flag(options, "chat")
        self._wording = Wording(
            read.text(options, "delimiter"),
            _separator(options),
            read.text(options, "system"),
        )
        self._rules = Rules(
            "" if self._chat and self._wording.delimiter is None else self._wording.delimiter,
            read.count(options, "max_new_tokens"),
            read.flag(options, "truncate"),
            special=not self._chat,
        )
        self._shots = self._worked_examples(options, folder)
        self._encoded: tuple[Any, dict[int, Encoded]] = (None, {})
        self._batches: Batches | None = None

    @property
    def needs(self) -> Need:
        """The live model."""
        return "model"

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self._items)

    @property
    def kind(self) -> Kind:
        """Of all items."""
        return self._kind

    def evaluate(
        self, subject: LiveModel, items: Sequence[int] | None
    ) -> Scores | Mapping[str, Scores]:
        """Scores and margins in the order of the items; NaN where the model answers no number.

        Args:
            subject: with a causal language model.
            items: indices in [0, count), repeats allowed; None for all.

        Raises:
            UsageError: if the model is no causal language model, or an item does not fit it.
        """
        import torch

        from evomerge.objectives.batches import Batches
        from evomerge.objectives.judging import Bench

        language = subject.language
        if language is None:
            raise UsageError(
                f"the model in {subject.folder} is no causal language model that evomerge knows; "
                "measure it with an objective of type python"
            )
        wanted = range(self.count) if items is None else items
        with torch.inference_mode():
            encoded = self._encode(subject, language, wanted)
            if self._batches is None:  # kept: what did not fit once is not tried again
                self._batches = Batches.on(subject.device, self._batch_size)
            bench = Bench(language, self._batches, subject.device)
            chosen = [self._items[i] for i in wanted]
            verdicts, rates = self._judge(bench, chosen, encoded)
        return self._metrics.answer({m: _scores(v, rates) for m, v in verdicts.items()})

    def _judge(
        self, bench: Bench, chosen: Sequence[Item], encoded: Sequence[Encoded]
    ) -> tuple[dict[str, list[Verdict]], dict[str, float]]:
        """Verdicts by metric, and the shares of items that put them in doubt."""
        from evomerge.objectives import judging

        metrics = cast(Sequence[Metric], self._metrics.wanted)
        found = judging.likelihoods(bench, encoded)
        rates = {"truncated": _share(tokens.cut for tokens in encoded)}
        if self._kind == "multiple_choice":
            rights = [cast(MultipleChoice, item).right for item in chosen]
            return {
                metric: [
                    judge_choice(metric, values, right, self._normalize)
                    for values, right in zip(found, rights, strict=True)
                ]
                for metric in metrics
            }, rates
        if self._kind == "perplexity":
            return {
                metric: [judge_text(metric, one) for (one,) in found] for metric in metrics
            }, rates
        matchers = [Matcher(cast(ExactMatch, item).answers, self._stop) for item in chosen]
        texts = [""] * len(chosen)
        if WRITTEN & set(metrics):
            early = WRITTEN & set(metrics) == {"exact_match"}
            written = judging.written(bench, matchers, encoded, early=early)
            texts = [answer.text for answer in written]
            rates["invalid"] = _share(
                not answer.over or not matcher.said(answer.text)
                for matcher, answer in zip(matchers, written, strict=True)
            )
        return {
            metric: [
                judge_answer(metric, matcher, text, values)
                for matcher, text, values in zip(matchers, texts, found, strict=True)
            ]
            for metric in metrics
        }, rates

    def _encode(
        self, subject: LiveModel, language: LanguageModel, wanted: Sequence[int]
    ) -> list[Encoded]:
        """Tokens of the items, remembered as long as the tokenizer is the same."""
        tokenizer, known = self._encoded
        if tokenizer is not subject.tokenizer:
            known = {}
            self._encoded = (subject.tokenizer, known)
        new = [i for i in dict.fromkeys(wanted) if i not in known]
        known.update({i: encode(self._worded(i, language), language, self._rules) for i in new})
        if cut := sum(known[i].cut for i in new):
            _log.warning(
                "%s: %d of %d items are longer than the model's context of %s tokens and lose "
                "their beginning",
                self._path,
                cut,
                len(new),
                language.context,
            )
        return [known[i] for i in wanted]

    def _worded(self, index: int, language: LanguageModel) -> Item:
        """The item with all that stands before its answer as its prompt."""
        item = self._items[index]
        shots = self._shots.of(item)
        if self._chat:
            try:
                prompt = language.chat(chat_messages(item, shots, self._wording))
            except UsageError as error:
                raise UsageError(error.cause, place=item.place) from error
        elif shots or self._wording.system is not None:
            prompt = plain_prompt(item, shots, self._wording)
        else:
            return item
        return replace(item, prompt=prompt)

    def _worked_examples(self, options: Mapping[str, Any], folder: Path) -> Shots:
        count, source = read.count(options, "shots") or 0, read.text(options, "shots_from")
        if source is not None and not count:
            raise UsageError("shots_from is a file of worked examples; say `shots`, how many")
        if self._kind == "perplexity" and (count or self._chat):
            raise UsageError("texts are read as they are; leave off `shots` and `chat`")
        pool = self._items
        if source is not None:
            lines = read_items(folder / Path(source).expanduser())
            pool = tuple(parse(line, self._kind) for line in lines)
        shots = Shots(pool, count, seed=read.whole(options, "shots_seed"))
        for item in self._items:
            shots.of(item)
        return shots


def _scores(verdicts: Sequence[Verdict], rates: Mapping[str, float]) -> Scores:
    margins = [verdict.margin for verdict in verdicts if verdict.margin is not None]
    return Scores(
        [verdict.score for verdict in verdicts],
        margins or None,
        {name: rate for name, rate in rates.items() if rate},
    )


def _share(happened: Iterable[bool]) -> float:
    found = list(happened)
    return sum(found) / len(found) if found else 0.0


def _separator(options: Mapping[str, Any]) -> str:
    found = read.text(options, "separator")
    return Wording.separator if found is None else found
