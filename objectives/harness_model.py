"""A live model as lm-evaluation-harness sees one; no second copy of its parameters is made.

Texts are put into tokens as the harness does it, and read and continued as the JSONL objective does
it, in batches that cannot be felt. It answers what the harness asks its own models, and inherits
nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from evomerge.errors import UsageError
from evomerge.objectives.batches import Batches
from evomerge.objectives.generation import Prompt, greedy
from evomerge.objectives.likelihood import Likelihoods, Reading
from evomerge.objectives.request import Request
from evomerge.objectives.subject import LanguageModel

LONGEST = 2048
"""Tokens of a window where a model has no limit of its own."""
_Pair = tuple[list[int], list[int]]
"""Tokens of a context and of its continuation."""


class HarnessModel:
    """A model that tasks of the harness can ask, over `evomerge.objectives.subject.LanguageModel`.

    Attributes:
        unfinished: how many of the last texts that were written reached their limit of tokens.
        cut: how many of the last requests lost their beginning.
    """

    def __init__(self, language: LanguageModel, batches: Batches, device: torch.device) -> None:
        self._language = language
        self._batches = batches
        self._device = device
        self.unfinished = 0
        self.cut = 0

    @property
    def max_length(self) -> int:
        """Tokens that are read at once."""
        return self._language.context or LONGEST

    @property
    def _prefix(self) -> int:
        """The token that stands before an empty context."""
        if self._language.start is None:
            raise UsageError("a context is empty, and the tokenizer has no token to begin with")
        return self._language.start

    def _encode(self, text: str) -> list[int]:
        """Token ids; a beginning that the text already has is not put before it again."""
        ids = self._language.encode(text)
        return ids[1:] if ids[:2] == [self._language.start] * 2 else ids

    def _pair(self, context: str, continuation: str) -> _Pair:
        """Spaces at the end of the context belong to the continuation; tokens part behind it."""
        if not context:
            ids = self._language.encode(continuation, special=False)
            begun = [self._prefix] if ids[:1] != [self._prefix] else []
            return (begun + ids)[:1], (begun + ids)[1:]
        alone = self._encode(context.rstrip())
        whole = self._encode(context + continuation)
        return (alone, whole[len(alone) :]) if alone else ([self._prefix], whole)

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text that the chat template makes of turns.

        Raises:
            UsageError: if there is no template, or the last turn is to be continued.
        """
        if not add_generation_prompt:
            raise UsageError("the task begins the assistant's turn itself; leave off `chat`")
        return self._language.chat(chat_history)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation in nats, and whether it is the greedy one."""
        found = self._read([self._pair(*request.args) for request in requests])
        return [(reading.total, reading.greedy) for reading in found]

    def mean_log_probabilities(self, requests: Sequence[Any]) -> list[float]:
        """Of the tokens of each continuation, in nats; at most 0."""
        found = self._read([self._pair(*request.args) for request in requests])
        return [reading.total / len(reading.logs) for reading in found]

    def _read(self, pairs: Sequence[_Pair]) -> list[Reading]:
        """Continuations of one context are a set, and read it once."""
        sets: dict[tuple[int, ...], list[int]] = {}
        for index, (context, _) in enumerate(pairs):
            sets.setdefault(tuple(context), []).append(index)
        asked = [[self._request(*pairs[i]) for i in indices] for indices in sets.values()]
        reader = Likelihoods(self._language, self._batches, self._device)
        answers: dict[int, Reading] = {}
        for indices, readings in zip(sets.values(), reader.of(asked), strict=True):
            answers.update(zip(indices, readings, strict=True))
        return [answers[index] for index in range(len(pairs))]

    def _request(self, context: list[int], continuation: list[int]) -> Request:
        tokens = tuple(context + continuation)
        if len(continuation) > self.max_length:
            raise UsageError(
                f"a continuation takes {len(continuation)} tokens, and the model reads "
                f"{self.max_length} at most"
            )
        self.cut += len(tokens) > self.max_length + 1
        return Request(tokens[-self.max_length - 1 :], len(continuation))

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-likelihood of whole texts in nats, window by window."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows: list[_Pair] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            (text,) = request.args
            for window in get_rolling_token_windows(
                token_list=self._encode(text),
                prefix_token=self._prefix,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append(make_disjoint_window(window))
                owners.append(index)
        totals = [0.0] * len(requests)
        for owner, reading in zip(owners, self._read(windows), strict=True):
            totals[owner] += reading.total
        return totals

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """What the model writes greedily, up to a stop text or the limit, without it.

        Raises:
            UsageError: if a task wants samples, or more tokens than the model reads.
        """
        stops, prompts = zip(*(self._prompt(*request.args) for request in requests), strict=True)
        found = greedy(self._language, prompts, batches=self._batches, device=self._device)
        self.unfinished += sum(
            len(ids) >= prompt.limit and not prompt.enough(ids)
            for ids, prompt in zip(found, prompts, strict=True)
        )
        texts = [self._language.decode(ids) for ids in found]
        return [_before(text, until) for text, until in zip(texts, stops, strict=True)]

    def _prompt(self, context: str, settings: dict[str, Any]) -> tuple[tuple[str, ...], Prompt]:
        from lm_eval.models.utils import normalize_gen_kwargs

        known = normalize_gen_kwargs(settings)
        if known.get("do_sample"):
            raise UsageError(
                "the task draws samples; evomerge writes greedily, so that runs repeat"
            )
        stops = tuple(stop for stop in known["until"] if stop)
        limit = known["max_gen_toks"]
        room = self.max_length - limit
        if room < 1:
            raise UsageError(
                f"the task lets {limit} tokens be written, and the model reads {self.max_length} "
                "in all; set max_gen_toks in the task's generation_kwargs"
            )
        tokens = self._encode(context) or [self._prefix]
        self.cut += len(tokens) > room
        return stops, Prompt(tuple(tokens[-room:]), limit, self._stopper(stops))

    def _stopper(self, stops: tuple[str, ...]) -> Callable[[Sequence[int]], bool]:
        def stopped(ids: Sequence[int]) -> bool:
            text = self._language.decode(ids)
            return any(stop in text for stop in stops)

        return stopped


def _before(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
