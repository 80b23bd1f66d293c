"""Metrics of one item from log-likelihoods and written text: a score and a margin each.

No tokens, no torch: whatever measured the likelihoods, a live model or a server, is judged here.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from evomerge.objectives.jsonl_items import Kind
from evomerge.objectives.matching import Matcher

Normalization = Literal["none", "bytes", "chars", "tokens"]
"""What the log-likelihood of a choice is divided by."""

Metric = Literal[
    "accuracy",
    "accuracy_norm",
    "probability",
    "exact_match",
    "contains",
    "f1",
    "log_likelihood",
    "perplexity",
]
METRICS: Mapping[Kind, tuple[Metric, ...]] = {
    "multiple_choice": (
        "accuracy",
        "accuracy_norm",
        "probability",
        "log_likelihood",
        "perplexity",
    ),
    "exact_match": ("exact_match", "contains", "f1", "log_likelihood", "perplexity"),
    "perplexity": ("log_likelihood", "perplexity"),
}
"""By kind of item; the first is what is measured unless the campaign says otherwise."""
WRITTEN: frozenset[Metric] = frozenset({"exact_match", "contains", "f1"})
"""Metrics of what a model writes; the others need likelihoods alone."""
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)

_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class Verdict:
    """What one metric says of one item.

    Attributes:
        score: in the metric's unit; NaN where the model's answer is no number.
        margin: how far the answer was from flipping; None where nothing flips.
    """

    score: float
    margin: float | None = None


@dataclass(frozen=True)
class Likelihood:
    """Of one continuation.

    Attributes:
        nats: natural logarithm of its probability, at most 0.
        tokens, bytes, chars: its length, each 1 or more; bytes of UTF-8.
    """

    nats: float
    tokens: int
    bytes: int
    chars: int

    def per(self, normalization: Normalization) -> float:
        """Nats, divided by a length."""
        sizes = {"none": 1, "bytes": self.bytes, "chars": self.chars, "tokens": self.tokens}
        return self.nats / sizes[normalization]


def judge_choice(
    metric: Metric, choices: Sequence[Likelihood], right: int, normalization: Normalization
) -> Verdict:
    """A multiple-choice item.

    ``accuracy``: 1 where the right choice is strictly the most probable, else 0; a tie is wrong.
    ``accuracy_norm``: the same by nats per character, the harnesses' ``acc_norm``. Margins are the
    right choice's value minus the best wrong one's. ``probability``: of the right choice among the
    choices, in [0, 1]; its margin is the logarithm of the odds.
    """
    if metric in ("log_likelihood", "perplexity"):
        return judge_text(metric, choices[right])
    by: Normalization = "chars" if metric == "accuracy_norm" else normalization
    values = [choice.per(by) for choice in choices]
    if not all(map(math.isfinite, values)):
        return Verdict(math.nan, math.nan)
    wrong = [value for i, value in enumerate(values) if i != right]
    if metric == "probability":
        odds = values[right] - _log_sum(wrong)
        return Verdict(1 / (1 + math.exp(-odds)) if odds > -700 else 0.0, odds)
    margin = values[right] - max(wrong)
    return Verdict(float(margin > 0), margin)


def judge_answer(
    metric: Metric, matcher: Matcher, text: str, accepted: Sequence[Likelihood]
) -> Verdict:
    """An item that is answered in the model's own words.

    ``exact_match``: 1 if the text is an accepted answer, else 0. ``contains``: 1 if one occurs in
    it. ``f1``: shared words, Rajpurkar et al. (2016), arXiv:1606.05250, section 6.1: the best of
    the accepted answers, in [0, 1]. Margins are the mean log-probability of an accepted answer's
    tokens, in nats, where that is highest; at most 0.

    Args:
        text: as written; what stands behind a stop text does not count.
    """
    best = max(accepted, key=lambda found: found.per("tokens"))
    if metric in ("log_likelihood", "perplexity"):
        return judge_text(metric, best)
    margins = [found.per("tokens") for found in accepted]
    if not all(map(math.isfinite, margins)):
        return Verdict(math.nan, math.nan)
    if metric == "exact_match":
        score = float(matcher.matches(text))
    elif metric == "contains":
        said = matcher.said(text)
        score = float(any(answer.strip() in said for answer in matcher.answers))
    else:
        score = max(_f1(matcher.said(text), answer) for answer in matcher.answers)
    return Verdict(score, max(margins))


def judge_text(metric: Metric, found: Likelihood) -> Verdict:
    """A text by its likelihood alone; nothing flips, so there is no margin.

    ``log_likelihood``: bits per byte, at most 0, alike for any tokenizer. ``perplexity``: per
    token, 1 or more, lower is better; infinite where it exceeds what a float holds.
    """
    if metric == "log_likelihood":
        return Verdict(found.per("bytes") / math.log(2))
    mean = found.per("tokens")
    return Verdict(math.exp(-mean) if not mean < -700 else math.inf)


def _log_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))


def _f1(said: str, answer: str) -> float:
    words, wanted = _words(said), _words(answer)
    if not words or not wanted:
        return float(words == wanted)
    shared = (Counter(words) & Counter(wanted)).total()
    return 2 * shared / (len(words) + len(wanted))


def _words(text: str) -> list[str]:
    """Words without case, punctuation and articles, as SQuAD compares them."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return _ARTICLES.sub(" ", bare).split()
