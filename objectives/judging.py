"""Items measured on a live model: what the verdicts of `evomerge.objectives.verdicts` rest on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from evomerge.objectives.batches import Batches
from evomerge.objectives.encoding import Encoded
from evomerge.objectives.generation import Prompt, greedy
from evomerge.objectives.likelihood import Likelihoods
from evomerge.objectives.matching import Matcher
from evomerge.objectives.subject import LanguageModel
from evomerge.objectives.verdicts import Likelihood


@dataclass(frozen=True)
class Bench:
    """Where items are measured.

    Attributes:
        batches: rows at a time.
        device: of the model.
        share: whether the choices of an item read their prompt once.
    """

    language: LanguageModel
    batches: Batches
    device: torch.device
    share: bool = True


@dataclass(frozen=True)
class Written:
    """What a model wrote.

    Attributes:
        text: without the end-of-text token; it may go on behind a stop text.
        over: whether it came to an end before the limit, or the verdict did.
    """

    text: str
    over: bool


def likelihoods(bench: Bench, encoded: Sequence[Encoded]) -> list[list[Likelihood]]:
    """Of each item's continuations."""
    reader = Likelihoods(bench.language, bench.batches, bench.device, share=bench.share)
    found = reader.of([tokens.requests for tokens in encoded])
    return [
        [
            Likelihood(reading.total, len(reading.logs), size, chars)
            for reading, size, chars in zip(readings, tokens.sizes, tokens.chars, strict=True)
        ]
        for readings, tokens in zip(found, encoded, strict=True)
    ]


def written(
    bench: Bench, matchers: Sequence[Matcher], encoded: Sequence[Encoded], *, early: bool
) -> list[Written]:
    """What the model writes greedily behind each item's prompt.

    Args:
        early: end as soon as nothing more could change whether the answer matches; else at a stop
            text or the limit.
    """

    def enough(matcher: Matcher) -> Callable[[Sequence[int]], bool]:
        over = matcher.decided if early else matcher.stops
        return lambda ids: over(bench.language.decode(ids))

    prompts = [
        Prompt(tokens.prompt, tokens.limit, enough(matcher))
        for tokens, matcher in zip(encoded, matchers, strict=True)
    ]
    found = greedy(bench.language, prompts, batches=bench.batches, device=bench.device)
    return [
        Written(bench.language.decode(ids), len(ids) < prompt.limit or prompt.enough(ids))
        for ids, prompt in zip(found, prompts, strict=True)
    ]
