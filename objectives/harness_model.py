"""A live model as lm-evaluation-harness sees one; no second copy of its parameters is made.

Texts are put into tokens as the harness does it (`lm_eval.api.model.TemplateLM`), and read and
continued as the JSONL objective does it, in batches that cannot be felt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from evomerge.errors import UsageError
from evomerge.objectives.batches import Batches
from evomerge.objectives.generation import Prompt, greedy
from evomerge.objectives.likelihood import Likelihoods
from evomerge.objectives.request import Request
from evomerge.objectives.subject import LanguageModel

LONGEST = 2048
"""Tokens of a window where a model has no limit of its own."""
_Asked = tuple[Any, list[int], list[int]]


class HarnessModel(TemplateLM):  # type: ignore[misc]  # the harness is not typed
    """`lm_eval`'s model over `evomerge.objectives.subject.LanguageModel`.

    Attributes:
        unfinished: how many of the last texts that were written reached their limit of tokens.
        cut: how many of the last requests lost their beginning.
    """

    def __init__(self, language: LanguageModel, batches: Batches, device: torch.device) -> None:
        super().__init__()
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
    def eot_token_id(self) -> int:
        """A token that ends a text."""
        return min(self._language.ends, default=self.prefix_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before an empty context."""
        if self._language.start is None:
            raise UsageError("a context is empty, and the tokenizer has no token to begin with")
        return self._language.start

    @property
    def tokenizer_name(self) -> str:
        """For caches of the harness, none of which is used."""
        return ""

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids; a beginning that the text already has is not put before it again."""
        special = add_special_tokens is None or add_special_tokens
        ids = self._language.encode(string, special=special)
        doubled = add_special_tokens is None and ids[:2] == [self._language.start] * 2
        return ids[1:] if doubled else ids

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

    def _loglikelihood_tokens(
        self, requests: Sequence[_Asked], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation in nats, and whether it is the greedy one."""
        sets: dict[tuple[int, ...], list[int]] = {}
        for index, (_, context, _) in enumerate(requests):
            sets.setdefault(tuple(context), []).append(index)
        asked = [[self._request(requests[i]) for i in indices] for indices in sets.values()]
        reader = Likelihoods(self._language, self._batches, self._device)
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for indices, readings in zip(sets.values(), reader.of(asked), strict=True):
            for index, reading in zip(indices, readings, strict=True):
                answers[index] = (reading.total, reading.greedy)
        return answers

    def mean_log_probabilities(self, requests: Sequence[Any]) -> list[float]:
        """Of the tokens of each continuation, in nats; at most 0."""
        pairs = [self._encode_pair(*request.args) for request in requests]
        sets = [[self._request((None, *pair))] for pair in pairs]
        found = Likelihoods(self._language, self._batches, self._device).of(sets)
        return [reading.total / len(reading.logs) for (reading,) in found]

    def _request(self, asked: _Asked) -> Request:
        _, context, continuation = asked
        tokens = tuple(context + continuation)
        if len(continuation) > self.max_length:
            raise UsageError(
                f"a continuation takes {len(continuation)} tokens, and the model reads "
                f"{self.max_length} at most"
            )
        self.cut += len(tokens) > self.max_length + 1
        return Request(tokens[-self.max_length - 1 :], len(continuation))

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts in nats, window by window."""
        windows: list[_Asked] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            (text,) = request.args
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                context, continuation = make_disjoint_window(window)
                windows.append((None, context, continuation))
                owners.append(index)
        totals = [0.0] * len(requests)
        for owner, (nats, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += nats
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
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
        tokens = self.tok_encode(context) or [self.prefix_token_id]
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
