"""Log-probabilities of token sequences, in batches that cannot be felt.

Every row is computed in a batch whose shape follows from that row alone: sequences are padded on
the right to a length that depends on their own, and batches are filled up to a fixed number of
rows. As no token sees a later one, and as matrix products work row by row, a sequence's result
does not depend on what else is in its batch: bit for bit on the CPU, where a test says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.objectives.request import Request
from evomerge.objectives.subject import LanguageModel

MOST_LOGITS = 1 << 27
"""Logits computed at a time: half a gigabyte in float32."""


@dataclass(frozen=True)
class Shape:
    """What a row is padded to.

    Attributes:
        length: tokens.
        keep: how many of the last ones need logits.
    """

    length: int
    keep: int


def token_log_probabilities(
    language: LanguageModel,
    requests: Sequence[Request],
    *,
    batch_size: int,
    device: torch.device,
) -> list[list[float]]:
    """Natural logarithms of the probabilities of the scored tokens, request by request.

    Requests that read the same tokens share a row: choices of one token cost one row together.

    Args:
        requests: in any order; longer ones than the model's context are the caller's mistake.
        batch_size: the most rows at a time; fewer where the vocabulary is large.
        device: of the model.
    """
    rows: dict[Shape, dict[tuple[int, ...], list[int]]] = {}
    for index, request in enumerate(requests):
        group = rows.setdefault(_shape(request, language.context), {})
        group.setdefault(request.tokens[:-1], []).append(index)
    answers: list[list[float]] = [[] for _ in requests]
    for shape, group in rows.items():
        size = max(1, min(batch_size, MOST_LOGITS // (shape.keep * language.vocabulary)))
        for inputs in _batches(list(group), size):
            table = _log_probabilities(language, inputs, size, shape, device)
            for row, tokens in enumerate(inputs):
                for index in group[tokens]:
                    answers[index] = _picked(table[row], requests[index], shape)
    return answers


def padded_length(tokens: int) -> int:
    """The length that a sequence is padded to: multiples of 16, then eight steps per doubling.

    Args:
        tokens: 1 or more.
    """
    step = max(16, 1 << max(0, (tokens - 1).bit_length() - 4))
    return -(-tokens // step) * step


def _shape(request: Request, context: int | None) -> Shape:
    read = len(request.tokens) - 1
    length = max(read, min(padded_length(read), context or read + 15))
    needed = length - read + request.scored
    return Shape(length, min(length, max(16, 1 << (needed - 1).bit_length())))


def _batches(rows: Sequence[tuple[int, ...]], size: int) -> Iterator[Sequence[tuple[int, ...]]]:
    return (rows[i : i + size] for i in range(0, len(rows), size))


def _log_probabilities(
    language: LanguageModel,
    inputs: Sequence[tuple[int, ...]],
    size: int,
    shape: Shape,
    device: torch.device,
) -> Tensor:
    """``(size, keep, vocabulary)`` float32 or wider; rows beyond the inputs are filling."""
    ids = torch.zeros(size, shape.length, dtype=torch.int64)
    for row, tokens in enumerate(inputs):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    logits = language.logits(ids.to(device), keep=shape.keep)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.log_softmax(dim=-1)


def _picked(table: Tensor, request: Request, shape: Shape) -> list[float]:
    """Entries of ``(keep, vocabulary)`` that belong to the scored tokens."""
    first = len(request.tokens) - 1 - request.scored - (shape.length - shape.keep)
    places = torch.arange(first, first + request.scored, device=table.device)
    targets = torch.tensor(request.tokens[-request.scored :], device=table.device)
    found: list[float] = table[places, targets].tolist()
    return found
