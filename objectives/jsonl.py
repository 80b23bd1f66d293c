"""The objective for local causal language models on JSONL items.

::

    objective: {type: jsonl, items: arithmetic.jsonl}

Kinds of items are in `evomerge.objectives.jsonl_items`, what they score in
`evomerge.objectives.judging`. An item's score and margin do not depend on the items beside it.
Importing this, and making an objective, loads no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from evomerge.errors import UsageError
from evomerge.interfaces import Need
from evomerge.objectives import options as read
from evomerge.objectives.encoding import Encoded, Rules, encode
from evomerge.objectives.items import Line, read_items
from evomerge.objectives.jsonl_items import (
    KINDS,
    ExactMatch,
    Item,
    Kind,
    MultipleChoice,
    Normalization,
    kind_of,
    parse,
)
from evomerge.objectives.subject import LanguageModel, LiveModel
from evomerge.trial import Scores

OPTIONS = (
    "items",
    "kind",
    "batch_size",
    "normalize",
    "stop",
    "max_new_tokens",
    "delimiter",
    "truncate",
)
BATCH_SIZES = {"cpu": 8, "cuda": 64}
_log = logging.getLogger("evomerge")


class JsonlObjective:
    """Language items of one kind as an `evomerge.interfaces.Objective`.

    Args:
        options: ``items``: the JSONL file; ``kind``: multiple_choice, exact_match, perplexity, or
            auto, which looks at the items' keys; ``batch_size``: rows at a time, by default 8 on
            a CPU and 64 on a GPU; ``normalize``: none, bytes or tokens, of choices;
            ``stop``: a text or texts that end an answer, by default a line's end;
            ``max_new_tokens``, ``delimiter`` and ``truncate`` as in
            `evomerge.objectives.encoding.Rules`.
        folder: what a relative path starts from.

    Raises:
        UsageError: if an option or an item is not in order; for an item with ``file:line``.
    """

    def __init__(self, options: Mapping[str, Any], *, folder: Path) -> None:
        read.check_names(options, OPTIONS)
        path = folder / Path(read.required_text(options, "items", "items.jsonl")).expanduser()
        kind = read.choice(options, "kind", ("auto", *KINDS))
        lines = read_items(path)
        self._kind: Kind = _common_kind(lines) if kind == "auto" else cast(Kind, kind)
        self._items: tuple[Item, ...] = tuple(parse(line, self._kind) for line in lines)
        self._path = path
        self._batch_size = read.count(options, "batch_size")
        self._normalize = cast(
            Normalization, read.choice(options, "normalize", get_args(Normalization))
        )
        self._stop = _stop(options.get("stop", "\n"))
        self._rules = Rules(
            read.text(options, "delimiter"),
            read.count(options, "max_new_tokens"),
            read.flag(options, "truncate"),
        )
        self._encoded: tuple[Any, dict[int, Encoded]] = (None, {})

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

    def evaluate(self, subject: LiveModel, items: Sequence[int] | None) -> Scores:
        """Scores and margins in the order of the items; NaN where the model answers no number.

        Args:
            subject: with a causal language model.
            items: indices in [0, count), repeats allowed; None for all.

        Raises:
            UsageError: if the model is no causal language model, or an item does not fit it.
        """
        import torch

        from evomerge.objectives import judging

        language = subject.language
        if language is None:
            raise UsageError(
                f"the model in {subject.folder} is no causal language model that evomerge knows; "
                "measure it with an objective of type python"
            )
        wanted = range(self.count) if items is None else items
        size = self._batch_size or BATCH_SIZES.get(subject.device.type, BATCH_SIZES["cpu"])
        bench = judging.Bench(language, size, subject.device)
        with torch.inference_mode():
            encoded = self._encode(subject, language, wanted)
            chosen = [self._items[i] for i in wanted]
            if self._kind == "multiple_choice":
                choices = cast(list[MultipleChoice], chosen)
                return judging.judge_choices(bench, choices, encoded, self._normalize)
            if self._kind == "exact_match":
                answers = cast(list[ExactMatch], chosen)
                return judging.judge_answers(bench, answers, encoded, self._stop)
            return judging.judge_texts(bench, encoded)

    def _encode(
        self, subject: LiveModel, language: LanguageModel, wanted: Sequence[int]
    ) -> list[Encoded]:
        """Tokens of the items, remembered as long as the tokenizer is the same."""
        tokenizer, known = self._encoded
        if tokenizer is not subject.tokenizer:
            known = {}
            self._encoded = (subject.tokenizer, known)
        new = [i for i in dict.fromkeys(wanted) if i not in known]
        known.update({i: encode(self._items[i], language, self._rules) for i in new})
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


def _common_kind(lines: Sequence[Line]) -> Kind:
    first = kind_of(lines[0])
    for line in lines:
        if (kind := kind_of(line)) != first:
            raise UsageError(
                f"this item is {kind}, but the first one is {first}; say `kind`, or split the file",
                place=line.place,
            )
    return first


def _stop(given: Any) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(t, str) and t for t in texts):
        raise UsageError(f"stop is {given!r:.60}; a text or a list of texts is wanted")
    return tuple(texts)
