"""Log-probabilities of token sequences, in batches that cannot be felt.

Every row is computed in a batch whose shape follows from that row alone: sequences are padded on
the right to a length that depends on their own, and batches are filled up to a fixed number of
rows. As no token sees a later one, and as matrix products work row by row, a sequence's result
does not depend on what else is in its batch: bit for bit on the CPU, where a test says so.

Sequences of one item that begin alike, such as a prompt with several choices, are read as one up
to where they part, if that is worth it; which way an item goes follows from the item alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.objectives.batches import Batches
from evomerge.objectives.request import Request
from evomerge.objectives.subject import LanguageModel

MOST_LOGITS = 1 << 27
"""Logits computed at a time: half a gigabyte in float32."""
WORTH_SHARING = 16
"""Tokens that sequences have in common for them to be read once."""


@dataclass(frozen=True)
class Shape:
    """What a row is padded to.

    Attributes:
        length: tokens.
        keep: how many of the last ones need logits.
    """

    length: int
    keep: int


@dataclass(frozen=True)
class Reading:
    """What a model makes of one request.

    Attributes:
        logs: natural logarithms of the scored tokens' probabilities.
        greedy: whether each of them is the most probable one at its place.
    """

    logs: tuple[float, ...]
    greedy: bool

    @property
    def total(self) -> float:
        """Log-likelihood of the scored tokens together, in nats."""
        return math.fsum(self.logs)


Answers = list[list[Reading]]
"""Readings by set and request."""
_UNREAD = Reading((), True)
_Key = tuple[int, tuple[int, ...]]
_Logits = Callable[[Sequence[int], Tensor, int, Sequence[range]], Tensor]


class Likelihoods:
    """Reads sets of requests on one model.

    Args:
        language: whose parameters are read at each call.
        batches: rows at a time; fewer where the vocabulary is large.
        device: of the model.
        share: whether what the requests of a set have in common is read once.
    """

    def __init__(
        self,
        language: LanguageModel,
        batches: Batches,
        device: torch.device,
        *,
        share: bool = True,
    ) -> None:
        self._language = language
        self._batches = batches
        self._device = device
        self._share = share

    def of(self, sets: Sequence[Sequence[Request]]) -> Answers:
        """What the model makes of each request, by set.

        Requests that read the same tokens share a row: choices of one token cost one row
        together.

        Args:
            sets: each of one item; longer requests than the model's context are the caller's
                mistake.
        """
        answers: Answers = [[_UNREAD] * len(requests) for requests in sets]
        lengths: dict[int, list[int]] = {}
        for index, requests in enumerate(sets):
            lengths.setdefault(shared_length(requests) if self._share else 0, []).append(index)
        plain = lengths.pop(0, [])
        for length, chosen in lengths.items():
            plain += self._behind_prefixes(sets, chosen, length, answers)
        language = self._language
        self._read(
            sets,
            plain,
            0,
            answers,
            lambda of, ids, keep, places: language.logits(ids, keep=keep, places=places),
        )
        return answers

    def _behind_prefixes(
        self,
        sets: Sequence[Sequence[Request]],
        chosen: Sequence[int],
        length: int,
        answers: Answers,
    ) -> list[int]:
        """Read sets whose requests all begin with the same `length` tokens; those left over."""
        left: list[int] = []

        def work(chunk: Sequence[int], size: int) -> None:
            ids = _filled([sets[index][0].tokens[:length] for index in chunk], size, length)
            prefix = self._language.prefix(ids.to(self._device)) if self._share else None
            if prefix is None:
                self._share = False
                left.extend(chunk)
                return
            row = {index: row for row, index in enumerate(chunk)}
            self._read(
                sets,
                chunk,
                length,
                answers,
                lambda of, ids, keep, places: prefix.logits(
                    [row.get(i, 0) for i in of], ids, keep=keep
                ),
            )

        self._batches.run(chosen, work)
        return left

    def _read(
        self,
        sets: Sequence[Sequence[Request]],
        chosen: Sequence[int],
        skip: int,
        answers: Answers,
        logits: _Logits,
    ) -> None:
        """Read what stands behind the first `skip` tokens of each request, shape by shape."""
        shapes: dict[Shape, dict[_Key, list[tuple[int, int]]]] = {}
        for index in chosen:
            for place, request in enumerate(sets[index]):
                rows = shapes.setdefault(_shape(request, skip, self._language.context), {})
                key = (index if skip else -1, request.tokens[skip:-1])
                rows.setdefault(key, []).append((index, place))
        for shape, rows in shapes.items():
            self._read_shape(sets, rows, skip, shape, answers, logits)

    def _read_shape(
        self,
        sets: Sequence[Sequence[Request]],
        rows: Mapping[_Key, Sequence[tuple[int, int]]],
        skip: int,
        shape: Shape,
        answers: Answers,
        logits: _Logits,
    ) -> None:
        def work(chunk: Sequence[_Key], size: int) -> None:
            ids = _filled([tokens for _, tokens in chunk], size, shape.length)
            of = [index for index, _ in chunk] + [-1] * (size - len(chunk))
            places = [_places(key, [sets[i][j] for i, j in rows[key]]) for key in chunk]
            places += [range(0)] * (size - len(chunk))
            found = logits(of, ids.to(self._device), shape.keep, places)
            wide = found if found.dtype == torch.float64 else found.float()
            table = wide.log_softmax(dim=-1)
            asked = [(row, asker) for row, key in enumerate(chunk) for asker in rows[key]]
            requests = [(row, sets[index][place]) for row, (index, place) in asked]
            picked = _picked(table, requests, skip, shape)
            for (_, (index, place)), reading in zip(asked, picked, strict=True):
                answers[index][place] = reading

        most = MOST_LOGITS // (shape.keep * self._language.vocabulary)
        self._batches.run(list(rows), work, most=most)


def shared_length(requests: Sequence[Request]) -> int:
    """How many tokens a set's requests are read together: a step of `padded_length`, or 0.

    None of them is scored, and one token before the first scored one is left to each request.
    """
    if len({request.tokens[:-1] for request in requests}) < 2:
        return 0
    shortest = min(len(request.tokens) - request.scored - 1 for request in requests)
    columns = zip(*(request.tokens[:shortest] for request in requests), strict=True)
    common = next((i for i, column in enumerate(columns) if len(set(column)) > 1), shortest)
    return common - common % _step(common + 1) if common >= WORTH_SHARING else 0


def padded_length(tokens: int) -> int:
    """The length that a sequence is padded to: multiples of 16, then eight steps per doubling.

    Args:
        tokens: 1 or more.
    """
    return -(-tokens // _step(tokens)) * _step(tokens)


def _step(tokens: int) -> int:
    return max(16, 1 << max(0, (tokens - 1).bit_length() - 4))


def _shape(request: Request, skip: int, context: int | None) -> Shape:
    read = len(request.tokens) - 1 - skip
    room = read + 15 if context is None else context - skip
    length = max(read, min(padded_length(read), room))
    needed = length - read + request.scored
    return Shape(length, min(length, max(16, 1 << (needed - 1).bit_length())))


def _places(key: _Key, requests: Sequence[Request]) -> range:
    """The tokens of a row behind which one of its requests scores the next."""
    read = len(key[1])
    return range(read - max(request.scored for request in requests), read)


def _filled(rows: Sequence[tuple[int, ...]], size: int, length: int) -> Tensor:
    """``(size, length)`` ids; what is beyond the rows and behind them is filling."""
    ids = torch.zeros(size, length, dtype=torch.int64)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return ids


def _picked(
    table: Tensor, requests: Sequence[tuple[int, Request]], skip: int, shape: Shape
) -> list[Reading]:
    """What ``(rows, keep, vocabulary)`` says of the scored tokens of each request."""
    rows: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    for row, request in requests:
        end = len(request.tokens) - 1 - skip - (shape.length - shape.keep)
        rows += [row] * request.scored
        places += range(end - request.scored, end)
        targets += request.tokens[-request.scored :]
    numbers = [torch.tensor(column, device=table.device) for column in (rows, places, targets)]
    logs = table[tuple(numbers)]
    tops = logs == table.amax(dim=-1)[tuple(numbers[:2])]
    found = iter(zip(logs.tolist(), tops.tolist(), strict=True))
    readings = []
    for _, request in requests:
        mine = [next(found) for _ in range(request.scored)]
        readings.append(Reading(tuple(log for log, _ in mine), all(top for _, top in mine)))
    return readings
