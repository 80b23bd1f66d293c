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
from evomerge.objectives.exam import OPTIONS as SHARED
from evomerge.objectives.exam import Exam
from evomerge.objectives.jsonl_items import ExactMatch, Item, Kind
from evomerge.objectives.prompts import chat_messages, plain_prompt
from evomerge.objectives.subject import LanguageModel, LiveModel
from evomerge.trial import Scores

if TYPE_CHECKING:
    from evomerge.objectives.batches import Batches
    from evomerge.objectives.judging import Bench

OPTIONS = (*SHARED, "batch_size", "truncate", "chat")
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
        self._exam = Exam.read(options, folder)
        self._batch_size = read.count(options, "batch_size")
        self._chat = read.flag(options, "chat")
        if self._chat and self.kind == "perplexity":
            raise UsageError("texts are read as they are; leave off `chat`")
        delimiter = self._exam.wording.delimiter
        self._rules = Rules(
            "" if self._chat and delimiter is None else delimiter,
            self._exam.limit,
            read.flag(options, "truncate"),
            special=not self._chat,
        )
        self._encoded: tuple[Any, dict[int, Encoded]] = (None, {})
        self._batches: Batches | None = None

    @property
    def needs(self) -> Need:
        """The live model."""
        return "model"

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self._exam.items)

    @property
    def kind(self) -> Kind:
        """Of all items."""
        return self._exam.kind

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

        language = subject.causal
        wanted = range(self.count) if items is None else items
        with torch.inference_mode():
            encoded = self._encode(subject, language, wanted)
            if self._batches is None:  # kept: what did not fit once is not tried again
                self._batches = Batches.on(subject.device, self._batch_size)
            bench = Bench(language, self._batches, subject.device)
            return self._judged(bench, self._exam.chosen(items), encoded)

    def _judged(
        self, bench: Bench, chosen: Sequence[Item], encoded: Sequence[Encoded]
    ) -> Scores | Mapping[str, Scores]:
        from evomerge.objectives import judging

        exam = self._exam
        found = judging.likelihoods(bench, encoded)
        rates = {"truncated": _share(tokens.cut for tokens in encoded)}
        texts = [""] * len(chosen)
        if exam.writes:
            matchers = [exam.matcher(cast(ExactMatch, item)) for item in chosen]
            written = judging.written(bench, matchers, encoded, early=exam.ends_early)
            texts = [answer.text for answer in written]
            rates["invalid"] = _share(
                not answer.over or not matcher.said(answer.text)
                for matcher, answer in zip(matchers, written, strict=True)
            )
        return exam.answer(
            lambda metric: [
                exam.verdict(metric, *one) for one in zip(chosen, found, texts, strict=True)
            ],
            {name: rate for name, rate in rates.items() if rate},
        )

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
                self._exam.path,
                cut,
                len(new),
                language.context,
            )
        return [known[i] for i in wanted]

    def _worded(self, index: int, language: LanguageModel) -> Item:
        """The item with all that stands before its answer as its prompt."""
        item = self._exam.items[index]
        shots = self._exam.shots.of(item)
        if self._chat:
            try:
                prompt = language.chat(chat_messages(item, shots, self._exam.wording))
            except UsageError as error:
                raise UsageError(error.cause, place=item.place) from error
        elif shots or self._exam.wording.system is not None:
            prompt = plain_prompt(item, shots, self._exam.wording)
        else:
            return item
        return replace(item, prompt=prompt)


def _share(happened: Iterable[bool]) -> float:
    found = list(happened)
    return sum(found) / len(found) if found else 0.0
