"""Scores and margins of encoded items on a live model, one function per kind of item."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from evomerge.objectives.encoding import Encoded
from evomerge.objectives.generation import Prompt, greedy
from evomerge.objectives.jsonl_items import ExactMatch, MultipleChoice, Normalization
from evomerge.objectives.likelihood import token_log_probabilities
from evomerge.objectives.matching import Matcher
from evomerge.objectives.subject import LanguageModel
from evomerge.trial import Scores


@dataclass(frozen=True)
class Bench:
    """Where items are judged.

    Attributes:
        batch_size: rows at a time.
        device: of the model.
    """

    language: LanguageModel
    batch_size: int
    device: torch.device


def judge_choices(
    bench: Bench,
    items: Sequence[MultipleChoice],
    encoded: Sequence[Encoded],
    normalize: Normalization,
) -> Scores:
    """1 where the right choice is strictly the most probable, else 0; a tie is wrong.

    The margin is the right choice's log-likelihood minus that of the best wrong one, in nats,
    each divided by its bytes or tokens if `normalize` says so.
    """
    margins = []
    for item, tokens, found in zip(items, encoded, _log_likelihoods(bench, encoded), strict=True):
        values = [
            math.fsum(logs) / {"none": 1, "bytes": size, "tokens": len(logs)}[normalize]
            for logs, size in zip(found, tokens.sizes, strict=True)
        ]
        best_wrong = max(value for i, value in enumerate(values) if i != item.right)
        margins.append(values[item.right] - best_wrong if _finite(values) else math.nan)
    return Scores([_flag(margin > 0, margin) for margin in margins], margins)


def judge_answers(
    bench: Bench, items: Sequence[ExactMatch], encoded: Sequence[Encoded], stop: tuple[str, ...]
) -> Scores:
    """1 where greedy generation gives one of the answers, else 0.

    The margin is the mean log-probability of an answer's tokens after the prompt, in nats, of the
    answer where that is highest; at most 0.
    """
    means = [
        [math.fsum(logs) / len(logs) for logs in found]
        for found in _log_likelihoods(bench, encoded)
    ]
    margins = [max(values) if _finite(values) else math.nan for values in means]
    matchers = [Matcher(item.answers, stop) for item in items]
    prompts = [
        Prompt(tokens.prompt, tokens.limit, _decided(matcher, bench.language))
        for tokens, matcher in zip(encoded, matchers, strict=True)
    ]
    written = greedy(bench.language, prompts, batch_size=bench.batch_size, device=bench.device)
    right = [
        matcher.matches(bench.language.decode(text))
        for matcher, text in zip(matchers, written, strict=True)
    ]
    scores = [_flag(hit, margin) for hit, margin in zip(right, margins, strict=True)]
    return Scores(scores, margins)


def judge_texts(bench: Bench, encoded: Sequence[Encoded]) -> Scores:
    """Log-likelihood in bits per UTF-8 byte: at most 0, higher is better, alike for any tokenizer.

    There are no margins, for nothing flips: the scores themselves are continuous.
    """
    found = _log_likelihoods(bench, encoded)
    return Scores(
        [
            math.fsum(logs[0]) / math.log(2) / tokens.sizes[0]
            for logs, tokens in zip(found, encoded, strict=True)
        ]
    )


def _log_likelihoods(bench: Bench, encoded: Sequence[Encoded]) -> list[list[list[float]]]:
    """Log-probabilities by item, by continuation, by token."""
    requests = [request for tokens in encoded for request in tokens.requests]
    found = iter(
        token_log_probabilities(
            bench.language, requests, batch_size=bench.batch_size, device=bench.device
        )
    )
    return [[next(found) for _ in tokens.requests] for tokens in encoded]


def _decided(matcher: Matcher, language: LanguageModel) -> Callable[[Sequence[int]], bool]:
    return lambda written: matcher.decided(language.decode(written))


def _finite(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values))


def _flag(hit: bool, margin: float) -> float:
    """A score of 0 or 1; NaN where the model's answer is no number, which fails the attempt."""
    return math.nan if math.isnan(margin) else float(hit)
