"""A language model behind an OpenAI-compatible API, known by its likeliest next tokens.

The API tells, at each place, the log-probabilities of the `top` likeliest tokens, and of the token
that stands there where it echoes the prompt. The rest of the vocabulary shares evenly what is left
of the probability: with k of V tokens told, each of the others has ``left / (V - k)``, where
``left = 1 - sum p`` of the told.

What that means for a fusion, whose shift of token i is s_i (`evomerge.objectives.logit_fusion`):
with T the sum of p exp(s) over the told, the true normaliser lies between T + left exp(min s) and
T + left exp(max s) over the others, and so does ours. So the fused log-probability of a told token
is off by at most log((T + left exp(max s)) / (T + left exp(min s))), and exact where nothing is
left. That of another token is a guess: it is bounded from above alone, by log(left) + s less the
logarithm of the lower normaliser. ``matched`` scales s by what the guess says too; the same bound
holds at the scale that it finds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.completions import Token, written
from evomerge.objectives.endpoint.failures import EndpointDownError
from evomerge.objectives.endpoint.query import Query
from evomerge.objectives.remote_options import RemoteOptions
from evomerge.objectives.subject import LanguageModel

LOGGER = logging.getLogger("evomerge")
MUCH = 0.1
"""Probability not told from which on a warning is given."""
_NONE = 1e-9
"""Left at least, so that rounding makes no token impossible."""
_ID = "token_id:"

Told = Mapping[int, float]
"""Log-probabilities at one place, by token."""
_Row = tuple[int, ...]


def completed(told: Told, vocabulary: int) -> Tensor:
    """Log-probabilities of all tokens, ``(vocabulary,)``, float32; see the module's docstring."""
    known = {token: nats for token, nats in told.items() if 0 <= token < vocabulary}
    missing = vocabulary - len(known)
    table = torch.full((vocabulary,), math.log(left(known) / missing) if missing else 0.0)
    table[list(known)] = torch.tensor(list(known.values()))
    return table


def left(told: Told) -> float:
    """The probability of all tokens that are not told."""
    return max(_NONE, 1.0 - math.fsum(math.exp(nats) for nats in told.values()))


@dataclass
class RemoteReader:
    """`evomerge.objectives.subject.Reader`: remembers the tokens, as the API does not."""

    language: RemoteLanguage
    rows: list[_Row] = field(default_factory=list)

    def read(self, ids: Tensor) -> Tensor:
        """Logits after the last token, ``(rows, vocabulary)``."""
        new = [tuple(row) for row in ids.tolist()]
        before = self.rows or [()] * len(new)
        self.rows = [old + more for old, more in zip(before, new, strict=True)]
        return self.language.table(self.rows, 1)[:, -1].to(ids.device)


class RemoteLanguage:
    """`evomerge.objectives.subject.LanguageModel` over ``/completions``; logits are log-softmax.

    One request for each row of tokens where the API echoes, else one for each place; a token that
    is written costs one.

    Args:
        options: as `RemoteOptions.read` takes them.
        tokens: a model of the same tokenizer, which is here.
        names: token id to token, as ``tokenizer.json`` has it.

    Raises:
        UsageError: if an option is not in order.
    """

    context: int | None = None

    def __init__(
        self, options: Mapping[str, Any], tokens: LanguageModel, names: Mapping[int, str]
    ) -> None:
        self._options = RemoteOptions.read(options)
        self.client = Client(self._options.endpoint)
        self._tokens, self._names = tokens, names
        self._warned = False

    @property
    def vocabulary(self) -> int:
        """How many logits there are per token."""
        return self._tokens.vocabulary

    @property
    def ends(self) -> frozenset[int]:
        """Token ids that end a generation."""
        return self._tokens.ends

    @property
    def start(self) -> int | None:
        """The token before an empty prompt."""
        return self._tokens.start

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids."""
        return self._tokens.encode(text, special=special)

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self._tokens.decode(ids)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of turns, by the template of the model that is here."""
        return self._tokens.chat(messages)

    def logits(self, ids: Tensor, *, keep: int) -> Tensor:
        """Logits of the last `keep` tokens, ``(rows, keep, vocabulary)``."""
        return self.table([tuple(row) for row in ids.tolist()], keep).to(ids.device)

    def reader(self, *, rows: int, length: int) -> RemoteReader:
        """A reader that has read nothing yet."""
        return RemoteReader(self)

    def prefix(self, ids: Tensor) -> None:
        """The API keeps nothing for us."""

    def table(self, rows: Sequence[_Row], keep: int) -> Tensor:
        """As `logits`, on the CPU.

        Raises:
            EndpointError: if the API does not answer, or tells no log-probabilities.
        """
        ask = self._echoed if self._options.echo and keep > 1 else self._asked
        found = ask(rows, keep)
        self._look(found)
        return torch.stack(
            [torch.stack([completed(told, self.vocabulary) for told in row]) for row in found]
        )

    def _echoed(self, rows: Sequence[_Row], keep: int) -> list[list[Told]]:
        """What is told at the last places of each row, from one request."""
        found = []
        for row, tokens in zip(rows, self._sent(rows, echo=True), strict=True):
            if len(tokens) != len(row) + 1:
                raise EndpointDownError(
                    f"the API tells log-probabilities of {len(tokens)} tokens for a prompt of "
                    f"{len(row)}: it does not honour `echo`; say `echo: false`",
                    place=self.client.place,
                )
            places = list(enumerate(tokens))[-keep:]
            found.append(
                [self._told(token, row[i] if i < len(row) else None) for i, token in places]
            )
        return found

    def _asked(self, rows: Sequence[_Row], keep: int) -> list[list[Told]]:
        """The same from one request for each place."""
        cut = [row[: len(row) - back] for row in rows for back in range(keep - 1, -1, -1)]
        answers = self._sent(cut, echo=False)
        told = [self._told(tokens[0] if tokens else None, None) for tokens in answers]
        return [told[i : i + keep] for i in range(0, len(told), keep)]

    def _sent(self, rows: Sequence[_Row], *, echo: bool) -> list[tuple[Token, ...]]:
        given = self._options
        body = {"model": given.model, "max_tokens": 1, "temperature": 0, "logprobs": given.top}
        more = {**({"echo": True} if echo else {}), **given.extra}
        queries = [
            Query({**body, **more, "prompt": list(row)}, path="/completions", tokens=1)
            for row in rows
        ]
        return [written(answer).tokens for answer in self.client.ask(queries)]

    def _told(self, token: Token | None, actual: int | None) -> Told:
        """What an answer says of one place.

        Args:
            actual: the token that stands there, whose text need not be looked up.
        """
        named = {} if token is None else {self._id(text): nats for text, nats in token.top.items()}
        told = {number: nats for number, nats in named.items() if number is not None}
        if token is not None and actual is not None and token.nats is not None:
            told[actual] = token.nats
        if not told:
            raise EndpointDownError(
                "the API tells no log-probabilities of tokens that the small models have",
                place=self.client.place,
            )
        return told

    def _id(self, text: str) -> int | None:
        """A token by its text, or as vLLM writes ids; None where two tokens have that text."""
        if text.startswith(_ID) and text[len(_ID) :].isdecimal():
            return int(text[len(_ID) :])
        return self._by_text.get(text)

    @cached_property
    def _by_text(self) -> dict[str, int]:
        """Tokens behind others, special ones by their names; those that look alike are left out."""
        before = self.encode(".", special=False)
        skipped = len(self.decode(before))
        found: dict[str, list[int]] = {}
        for token in range(self.vocabulary):
            text = self.decode([*before, token])[skipped:] or self._names.get(token, "")
            found.setdefault(text, []).append(token)
        return {text: one[0] for text, one in found.items() if len(one) == 1}

    def _look(self, rows: Sequence[Sequence[Told]]) -> None:
        """Warn once where much is left."""
        most = max(left(told) for row in rows for told in row)
        if most > MUCH and not self._warned:
            self._warned = True
            LOGGER.warning(
                "%s leaves %.0f %% of the probability untold at a place; it is spread evenly, see "
                "docs/logit_fusion.md; raise `top`, if the API takes more",
                self.client.place,
                100 * most,
            )
