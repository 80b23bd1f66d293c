"""The demo's skills: what a specialist is trained on, and the items that test it.

Arithmetic, Python and English: each is text to continue. An item gives the beginning and four
continuations of which one is right; a model answers by likelihood. No item's text stands in any
training text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from evomerge.demo import texts
from evomerge.demo.texts import Passage
from evomerge.randomness import derived_seed, generator

PROMPT = 24
"""Characters before a continuation of text."""

CONTINUATION = 8
"""Characters of a continuation of text."""

SLACK = 16
"""Characters within which the place of a break is drawn."""

WRONG = 3
"""Wrong choices per item."""

SUMS_BELOW = 100
SUMS_HELD_OUT = 5
"""One pair of summands in this many is held out, in either order."""

SUM_LINES = 40_000
"""Of training text."""

_MISTAKES = (-11, -10, -9, -2, -1, 1, 2, 9, 10, 11)

Pair = tuple[int, int]

Spot = tuple[str, str]
"""A prompt, and what goes on there."""


@dataclass(frozen=True)
class Item:
    """A prompt, its continuations, and the index of the right one."""

    prompt: str
    choices: tuple[str, ...]
    answer: int

    def to_json(self) -> str:
        """One line of JSONL, in the shape common to the field."""
        return json.dumps({"prompt": self.prompt, "choices": self.choices, "answer": self.answer})


@dataclass(frozen=True)
class Skill:
    """What one specialist is to be good at.

    Attributes:
        name: of the model, the metric and the item file.
        meaning: one line for people.
        training: text, from a seed.
        items: at most so many, from a seed.
    """

    name: str
    meaning: str
    training: Callable[[int], str]
    items: Callable[[int, int], tuple[Item, ...]]


def background(seed: int) -> str:
    """What the base alone is trained on, beside sums: comments of the standard library."""
    return _joined(texts.comments(), generator(seed, "demo", "comments"))


def sums(seed: int) -> str:
    """Lines such as ``27+15=42``, of the pairs that are not held out."""
    pairs = [pair for pair in _pairs() if not sum_is_held_out(pair)]
    chosen = generator(seed, "demo", "sums").integers(len(pairs), size=SUM_LINES).tolist()
    return "\n".join(_line(pairs[i]) for i in chosen)


def sum_items(seed: int, count: int) -> tuple[Item, ...]:
    """Held-out sums of two digits; the wrong ones are near, or wrong in the tens."""
    pairs = [pair for pair in _pairs() if sum_is_held_out(pair) and sum(pair) >= 10]
    rng = generator(seed, "demo", "sum items")
    return tuple(_sum_item(pairs[i], rng) for i in rng.permutation(len(pairs))[:count].tolist())


def code(seed: int) -> str:
    """Modules of the standard library, one after the other."""
    return _joined(texts.code(), generator(seed, "demo", "code"))


def code_items(seed: int, count: int) -> tuple[Item, ...]:
    """Held-out code, broken off inside a word."""
    return text_items(texts.code(), count, generator(seed, "demo", "code items"))


def prose(seed: int) -> str:
    """Paragraphs of the documentation."""
    return _joined(texts.prose(), generator(seed, "demo", "prose"))


def prose_items(seed: int, count: int) -> tuple[Item, ...]:
    """Held-out documentation, broken off inside a word."""
    return text_items(texts.prose(), count, generator(seed, "demo", "prose items"))


SKILLS: tuple[Skill, ...] = (
    Skill("arithmetic", "sums of two numbers below 100", sums, sum_items),
    Skill("python", "code of the standard library", code, code_items),
    Skill("english", "documentation of the standard library", prose, prose_items),
)


def sum_is_held_out(pair: Pair) -> bool:
    """Whether items, rather than training text, have this pair; its order does not matter."""
    return derived_seed(0, "demo", "held out", *sorted(pair)) % SUMS_HELD_OUT == 0


def _pairs() -> list[Pair]:
    return [(a, b) for a in range(SUMS_BELOW) for b in range(SUMS_BELOW - a)]


def _line(pair: Pair) -> str:
    a, b = pair
    return f"{a}+{b}={a + b}"


def _sum_item(pair: Pair, rng: np.random.Generator) -> Item:
    a, b = pair
    near = [a + b + slip for slip in _MISTAKES if 10 <= a + b + slip < SUMS_BELOW]
    wrong = [str(near[i]) for i in rng.permutation(len(near))[:WRONG]]
    return _item(f"\n{a}+{b}=", str(a + b), wrong, rng)


def text_items(
    passages: Sequence[Passage], count: int, rng: np.random.Generator
) -> tuple[Item, ...]:
    """Held-out text broken off inside words, and what goes on there, or elsewhere in such text.

    Args:
        count: at most so many.
    """
    trained = "\n".join(
        passage.text
        for source in (texts.code(), texts.comments(), texts.prose())
        for passage in source
        if not passage.held_out
    )
    spots = list(dict.fromkeys(_breaks(passages, rng)))
    drawn = (spots[i] for i in rng.permutation(len(spots)).tolist())
    new = (spot for spot in drawn if "".join(spot) not in trained)
    return tuple(_text_item(spots, spot, rng) for spot in islice(new, count))


def _breaks(passages: Sequence[Passage], rng: np.random.Generator) -> list[Spot]:
    """Places inside words, and what goes on there; they do not overlap."""
    stretch = PROMPT + CONTINUATION + SLACK
    found = []
    for passage in passages:
        text = passage.text if passage.held_out else ""
        for start in range(0, len(text) - stretch + 1, stretch):
            at = start + PROMPT + int(rng.integers(SLACK))
            prompt, right = text[at - PROMPT : at], text[at : at + CONTINUATION]
            if (prompt[-1] + right[0]).isalpha() and "   " not in prompt + right:
                found.append((prompt, right))
    return found


def _text_item(spots: Sequence[Spot], spot: Spot, rng: np.random.Generator) -> Item:
    prompt, right = spot
    drawn = (spots[i][1] for i in rng.integers(len(spots), size=8 * WRONG).tolist())
    wrong = [text for text in dict.fromkeys(drawn) if text != right]
    return _item(prompt, right, wrong[:WRONG], rng)


def _item(prompt: str, right: str, wrong: Sequence[str], rng: np.random.Generator) -> Item:
    answer = int(rng.integers(len(wrong) + 1))
    return Item(prompt, (*wrong[:answer], right, *wrong[answer:]), answer)


def _joined(passages: Sequence[Passage], rng: np.random.Generator) -> str:
    """Training text: the passages that are not held out, shuffled."""
    kept = [passage.text for passage in passages if not passage.held_out]
    return "\n".join(kept[i] for i in rng.permutation(len(kept)))
