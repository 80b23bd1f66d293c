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
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.completions import Token, Written, written
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

    def read(self, ids: Tensor, *, rows: Collection[int] | None = None) -> Tensor:
        """Logits after the last token, ``(rows, vocabulary)``; 0 where nobody looks."""
        new = [tuple(row) for row in ids.tolist()]
        before = self.rows or [()] * len(new)
        self.rows = [old + more for old, more in zip(before, new, strict=True)]
        places = [
            range(len(row) - 1, len(row)) if rows is None or i in rows else range(0)
            for i, row in enumerate(self.rows)
        ]
        return self.language.table(self.rows, 1, places)[:, -1].to(ids.device)


class RemoteLanguage:
    """`evomerge.objectives.subject.LanguageModel` over ``/completions``; logits are log-softmax.

    One request for all places of a row where the API echoes, else one for each; a token that is
    written costs one. Places that nobody looks at are not asked for.

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

    def logits(self, ids: Tensor, *, keep: int, places: Sequence[range] | None = None) -> Tensor:
        """Logits of the last `keep` tokens, ``(rows, keep, vocabulary)``; 0 where nobody looks."""
        rows, length = [tuple(row) for row in ids.tolist()], ids.shape[1]
        wanted = [range(length - keep, length)] * len(rows) if places is None else places
        return self.table(rows, keep, wanted).to(ids.device)

    def reader(self, *, rows: int, length: int) -> RemoteReader:
        """A reader that has read nothing yet."""
        return RemoteReader(self)

    def prefix(self, ids: Tensor) -> None:
        """The API keeps nothing for us."""

    def table(self, rows: Sequence[_Row], keep: int, places: Sequence[range]) -> Tensor:
        """As `logits`, on the CPU.

        Raises:
            EndpointError: if the API does not answer, or tells no log-probabilities.
        """
        asked = [(i, span) for i, row in enumerate(places) for span in self._spans(row)]
        answers = self.client.ask([self._query(rows[i], span) for i, span in asked])
        table = torch.zeros(len(rows), keep, self.vocabulary)
        found: list[Told] = []
        for (i, span), answer in zip(asked, answers, strict=True):
            for place, told in zip(span, self._read(answer, rows[i], span), strict=True):
                table[i, place - len(rows[i])] = completed(told, self.vocabulary)
                found.append(told)
        self._look(found)
        return table

    def _spans(self, places: range) -> list[range]:
        """What one request asks for: all with `echo`, or one place."""
        if self._options.echo and len(places) > 1:
            return [places]
        return [range(place, place + 1) for place in places]

    def _query(self, row: _Row, span: range) -> Query:
        given = self._options
        body = {"model": given.model, "max_tokens": 1, "temperature": 0, "logprobs": given.top}
        more = {**({"echo": True} if len(span) > 1 else {}), **given.extra}
        prompt = list(row[: span.stop])
        return Query({**body, **more, "prompt": prompt}, path="/completions", tokens=1)

    def _read(self, answer: Any, row: _Row, span: range) -> list[Told]:
        """What is told behind each token of a span.

        Where the text ends at once, some APIs give no token for it: nothing is told there.
        """
        said = written(answer)
        if not _tells(said):
            raise EndpointDownError("the API tells no log-probabilities", place=self.client.place)
        if len(span) > 1 and len(said.tokens) - span.stop not in (0, 1):
            raise EndpointDownError(
                f"the API tells log-probabilities of {len(said.tokens)} tokens for a prompt of "
                f"{span.stop}: it does not honour `echo`; say `echo: false`",
                place=self.client.place,
            )
        tokens: Sequence[Token] = said.tokens[span.start + 1 :] if len(span) > 1 else said.tokens
        there = row[span.start + 1 : span.stop]
        return [
            self._told(tokens[i] if i < len(tokens) else None, there[i] if i < len(there) else None)
            for i in range(len(span))
        ]

    def _told(self, token: Token | None, actual: int | None) -> Told:
        """What an answer says of one place; nothing where no token can be told from others.

        Args:
            actual: the token that stands there, whose text need not be looked up.
        """
        if token is None:
            return {}
        named = {self._id(text): nats for text, nats in token.top.items()}
        told = {number: nats for number, nats in named.items() if number is not None}
        number = self._id(token.text) if actual is None else actual
        if number is not None and token.nats is not None:
            told[number] = token.nats
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

    def _look(self, found: Iterable[Told]) -> None:
        """Warn once where much is left."""
        most = max(map(left, found), default=0.0)
        if most > MUCH and not self._warned:
            self._warned = True
            LOGGER.warning(
                "%s leaves %.0f %% of the probability untold at a place; it is spread evenly, see "
                "docs/logit_fusion.md; raise `top`, if the API takes more",
                self.client.place,
                100 * most,
            )


def _tells(said: Written) -> bool:
    """Whether an answer has log-probabilities, or no token that could have some."""
    ended = not said.tokens and not said.text and said.finish == "stop"
    return ended or any(token.top or token.nats is not None for token in said.tokens)
