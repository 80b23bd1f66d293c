"""What a model reads before it answers: worked examples, an instruction, turns of a chat.

Plain text and messages only; no tokens, no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from evomerge.errors import UsageError
from evomerge.objectives.jsonl_items import Item, MultipleChoice, Passage
from evomerge.randomness import generator

Message = Mapping[str, str]
"""One turn of a chat: ``role`` (system, user, assistant) and ``content``."""


@dataclass(frozen=True)
class Wording:
    """How prompts are put together.

    Attributes:
        delimiter: between prompt and answer; None for one space unless either side has white
            space there or the prompt is empty.
        separator: between worked examples.
        system: an instruction before everything else; None for none.
    """

    delimiter: str | None = None
    separator: str = "\n\n"
    system: str | None = None


def between(prompt: str, answer: str, delimiter: str | None) -> str:
    """The text between prompt and answer."""
    if delimiter is not None:
        return delimiter
    touching = prompt[-1:].isspace() or answer[:1].isspace()
    return " " if prompt and not touching else ""


def reference(item: Item) -> str:
    """The answer that a worked example shows: the right choice, or the first accepted answer."""
    if isinstance(item, MultipleChoice):
        return item.choices[item.right]
    return item.text if isinstance(item, Passage) else item.answers[0]


def plain_prompt(item: Item, shots: Sequence[Item], wording: Wording) -> str:
    """Instruction, worked examples and the item's own prompt as one text."""
    worked = [
        shot.prompt + between(shot.prompt, reference(shot), wording.delimiter) + reference(shot)
        for shot in shots
    ]
    head = [] if wording.system is None else [wording.system]
    return wording.separator.join([*head, *worked, item.prompt])


def chat_messages(item: Item, shots: Sequence[Item], wording: Wording) -> tuple[Message, ...]:
    """The same as turns of a chat, up to the user's last; the answer is the next turn."""
    return tuple(_turns(item, shots, wording))


def _turns(item: Item, shots: Sequence[Item], wording: Wording) -> Iterator[Message]:
    if wording.system is not None:
        yield {"role": "system", "content": wording.system}
    for shot in shots:
        yield {"role": "user", "content": shot.prompt}
        yield {"role": "assistant", "content": reference(shot)}
    yield {"role": "user", "content": item.prompt}


class Shots:
    """Worked examples: the same few for every item, but never the item itself.

    They are the first of a seeded permutation of the pool whose prompt is not the item's own, so
    that most items share one beginning.

    Args:
        pool: items of the same kind; an item's own are recognised by their prompt.
        count: 0 or more.

    Raises:
        UsageError: if the pool is too small for an item that is asked.
    """

    def __init__(self, pool: Sequence[Item], count: int, *, seed: int) -> None:
        order = generator(seed, "shots").permutation(len(pool)).tolist() if count else []
        self._pool = [pool[i] for i in order]
        self._count = count

    def of(self, item: Item) -> tuple[Item, ...]:
        """The worked examples before one item."""
        other = (shot for shot in self._pool if shot.prompt != item.prompt)
        others = tuple(islice(other, self._count))
        if len(others) < self._count:
            raise UsageError(
                f"{self._count} worked examples are wanted, and {len(others)} other items have "
                "another prompt than this one; name `shots_from`, a file with more",
                place=item.place,
            )
        return others
