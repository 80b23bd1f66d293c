"""Items of `evomerge.objectives.jsonl` for servers: texts to be scored, prompts to go on from.

A server's objective finds the log-probabilities of continuations or labels, and what is written
behind a prompt; what these are worth is decided here, as the local objective decides it. The
option ``scoring`` says what is asked for:

- ``echo``: log-probabilities of whole continuations, and written answers where metrics need them;
- ``labels``: log-probabilities of the choices' letters, or first tokens, as the next token;
- ``match``: what the model writes, compared with the answers;
- ``judge``: what the model writes, judged by another model.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from evomerge.errors import UsageError
from evomerge.objectives import options as read
from evomerge.objectives.exam import OPTIONS, Exam, Style
from evomerge.objectives.jsonl_items import ExactMatch, Item, Kind, MultipleChoice, Passage
from evomerge.objectives.prompts import Message, between, chat_messages, plain_prompt
from evomerge.objectives.verdicts import METRICS, Likelihood, Metric, Verdict, judge_choice
from evomerge.trial import Scores

Scoring = Literal["echo", "labels", "match", "judge"]
Scorings = Mapping[Kind, tuple[Scoring, ...]]
"""What an objective can do, by kind of items; the default first."""
LIKELIHOODS: Scorings = dict.fromkeys(METRICS, ("echo",))
ASKED = (*OPTIONS, "scoring", "labels", "top")
"""Names that objectives take of their options which can do more than that."""
LIMIT = 64
"""Tokens of a written answer where neither the campaign nor the accepted answers say how many."""

_SURE = Likelihood(0.0, 1, 1, 1)


@dataclass(frozen=True)
class Seen:
    """What a server says of one item.

    Attributes:
        nats: log-probability of each continuation or label; empty where nothing was told.
        tokens: how many tokens each of them has, 1 or more.
        text: what was written; None where nothing was to be.
        over: whether what was written came to an end.
        margin: how far what was written was from flipping; None where that is not told.
    """

    nats: tuple[float, ...]
    tokens: tuple[int, ...]
    text: str | None = None
    over: bool = True
    margin: float | None = None

    def to_json(self) -> list[Any]:
        """As an observation."""
        return [list(self.nats), list(self.tokens), self.text, self.over, self.margin]


class Questions:
    """All items of an objective.

    Args:
        options: those of `Exam`; where there are several `scorings`, ``scoring``, and ``labels``:
            letters, under which choices are listed, or the choices themselves.
        folder: what relative paths start from.

    Attributes:
        stop: texts that end a written answer.
        limit: the most tokens of one; None where the campaign does not say.
        writes: whether the model is to write.

    Raises:
        UsageError: if an option or an item is not in order.
    """

    def __init__(
        self, options: Mapping[str, Any], folder: Path, scorings: Scorings = LIKELIHOODS
    ) -> None:
        self._exam = Exam.read(options, folder, lambda kind: _style(options, kind, scorings))
        self.scoring = _scoring(options, self._exam.kind, scorings)
        self.stop = self._exam.stop
        self.limit = self._exam.limit
        self.writes = self.scoring in ("match", "judge") or (
            self.scoring == "echo" and self._exam.writes
        )

    def __len__(self) -> int:
        return len(self._exam.items)

    def chosen(self, items: Sequence[int] | None) -> list[Item]:
        """By index; None for all."""
        return self._exam.chosen(items)

    def prompt(self, item: Item) -> str:
        """All that stands before the answer, but for what stands between."""
        if isinstance(item, Passage):
            return item.prompt
        return plain_prompt(item, self._exam.shots.of(item), self._exam.wording)

    def messages(self, item: Item) -> tuple[Message, ...]:
        """The same as turns of a chat."""
        return chat_messages(item, self._exam.shots.of(item), self._exam.wording)

    def continuations(self, item: Item) -> list[str]:
        """What is scored behind the prompt: each text, and what stands between before it."""
        prompt, link = self.prompt(item), self._exam.wording.delimiter
        if isinstance(item, Passage):
            link = ""
        return [between(prompt, text, link) + text for text in _texts(item)]

    def scores(self, items: Sequence[Item], seen: Sequence[Seen]) -> Scores | Mapping[str, Scores]:
        """What `evomerge.interfaces.Objective.evaluate` returns; answers that are none are a rate.

        Those of a judge are not decided here.
        """
        pairs = list(zip(items, seen, strict=True))
        invalid = sum(self._is_invalid(*pair) for pair in pairs)
        return self._exam.answer(
            lambda metric: [self._verdict(metric, *pair) for pair in pairs],
            {"invalid": invalid / len(seen)} if invalid else {},
        )

    def judged(self, scores: Scores) -> Scores | Mapping[str, Scores]:
        """What `evomerge.interfaces.Objective.evaluate` returns of a judge's scores."""
        return self._exam.metrics.answer({"judge": scores})

    def _is_invalid(self, item: Item, seen: Seen) -> bool:
        """Whether no label or nothing was said, or more text could still change its worth."""
        if self.scoring == "labels":
            return not seen.nats
        if seen.text is None or not isinstance(item, ExactMatch):
            return False
        matcher = self._exam.matcher(item)
        decided = self._exam.ends_early and matcher.decided(seen.text)
        return not (seen.over or matcher.stops(seen.text) or decided) or not matcher.said(seen.text)

    def _verdict(self, metric: Metric, item: Item, seen: Seen) -> Verdict:
        if self.scoring == "labels":
            choice = cast(MultipleChoice, item)
            # Where no label is among the likeliest tokens they are all alike, and so wrong.
            nats = seen.nats or (0.0,) * len(choice.choices)
            labels = [Likelihood(value, 1, 1, 1) for value in nats]
            return judge_choice(metric, labels, choice.right, "none")
        if self.scoring == "match":
            verdict = self._exam.verdict(metric, item, [_SURE], seen.text or "")
            return replace(verdict, margin=seen.margin)
        found = [
            Likelihood(nats, tokens, len(text.encode()), len(text))
            for text, nats, tokens in zip(_texts(item), seen.nats, seen.tokens, strict=True)
        ]
        return self._exam.verdict(metric, item, found, seen.text or "")


def lettered(item: MultipleChoice) -> MultipleChoice:
    """The choices listed in the prompt under letters; the letters are the choices then.

    Raises:
        UsageError: if there are more choices than letters.
    """
    if len(item.choices) > len(string.ascii_uppercase):
        raise UsageError("there are more choices than letters", place=item.place)
    letters = string.ascii_uppercase[: len(item.choices)]
    lines = [f"{letter}. {text}" for letter, text in zip(letters, item.choices, strict=True)]
    prompt = "\n".join([item.prompt, *lines, "Answer:"])
    return replace(item, prompt=prompt, choices=tuple(letters))


def spelled(item: MultipleChoice, asked: MultipleChoice) -> ExactMatch:
    """For servers that tell no probabilities: right are the letter, the choice, and both."""
    label, text = asked.choices[item.right], item.choices[item.right]
    answers = dict.fromkeys((label, f"{label}.", f"{label}. {text}", text))
    return ExactMatch(asked.prompt, tuple(answers), item.place)


def _scoring(options: Mapping[str, Any], kind: Kind, scorings: Scorings) -> Scoring:
    if not scorings[kind]:
        raise UsageError(f"items of the kind {kind} need `api: completions`, which can echo")
    return cast(Scoring, read.choice(options, "scoring", scorings[kind]))


def _style(options: Mapping[str, Any], kind: Kind, scorings: Scorings) -> Style:
    """Metrics that a scoring can tell, and items with lettered choices where letters are said."""
    scoring = _scoring(options, kind, scorings)
    letters = read.choice(options, "labels", ("letters", "choices")) == "letters"

    def form(item: Item) -> Item:
        if not isinstance(item, MultipleChoice) or scoring == "echo":
            return item
        asked = lettered(item) if letters else item
        return asked if scoring == "labels" else spelled(item, asked)

    metrics: Mapping[Scoring, Sequence[str]] = {
        "echo": METRICS[kind],
        "labels": ("accuracy", "probability"),
        "match": ("exact_match", "contains", "f1"),
        "judge": ("judge",),
    }
    return Style(metrics[scoring], form)


def _texts(item: Item) -> tuple[str, ...]:
    if isinstance(item, MultipleChoice):
        return item.choices
    return item.answers if isinstance(item, ExactMatch) else (item.text,)
