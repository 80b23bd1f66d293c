"""What objectives share that ask a server the items of a JSONL file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from evomerge.objectives.endpoint.questions import Questions, Seen
from evomerge.trial import Scores

Subject = TypeVar("Subject")


class Questioning(ABC, Generic[Subject]):
    """Turns what a server says of items into an `evomerge.interfaces.Objective`'s answer.

    Args:
        questions: the items, and what answers to them are worth.
    """

    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self._questions)

    def observe(self, subject: Subject, items: Sequence[int] | None) -> list[Any]:
        """Log-probabilities and token counts of continuations, and what was written, by item."""
        return [said.to_json() for said in self._seen(subject, items)]

    def evaluate(
        self, subject: Subject, items: Sequence[int] | None
    ) -> Scores | Mapping[str, Scores]:
        """Scores and margins in the order of the items.

        Raises:
            EndpointError: if the server fails, or does not have or mix the candidate.
            EndpointDownError: if it cannot have or mix any, or is another than at first.
        """
        return self._questions.scores(self._questions.chosen(items), self._seen(subject, items))

    @abstractmethod
    def _seen(self, subject: Subject, items: Sequence[int] | None) -> list[Seen]:
        """What the server says, in the order of the items; None for all of them."""
