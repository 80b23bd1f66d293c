"""When a generated answer is right, and when no further token can change that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matcher:
    """Compares a generated text with the accepted answers.

    The text counts up to the first stop text; white space around it and around the answers does
    not count.

    Attributes:
        answers: one or more.
        stop: texts that end an answer, none of them empty.
    """

    answers: tuple[str, ...]
    stop: tuple[str, ...]

    def matches(self, text: str) -> bool:
        """Whether a whole generated text is one of the answers."""
        return self.said(text) in {answer.strip() for answer in self.answers}

    def decided(self, text: str) -> bool:
        """Whether more text could not change what `matches` says."""
        if self.stops(text):
            return True
        said = self._settled(text).lstrip()
        return not any(_may_become(said, answer.strip()) for answer in self.answers)

    def said(self, text: str) -> str:
        """The text up to the first stop text, without the white space around it."""
        ends = [text.find(stop) for stop in self.stop if stop in text]
        return text[: min(ends, default=len(text))].strip()

    def stops(self, text: str) -> bool:
        """Whether a stop text stands in it."""
        return any(stop in text for stop in self.stop)

    def _settled(self, text: str) -> str:
        """The text without an end that may be the beginning of a stop or of a character."""
        text = text.rstrip("\ufffd")
        pending = [
            size for stop in self.stop for size in range(1, len(stop)) if text.endswith(stop[:size])
        ]
        return text[: len(text) - max(pending, default=0)]


def _may_become(said: str, answer: str) -> bool:
    """Whether more text can turn `said` into the answer and white space."""
    return answer.startswith(said) or (said.startswith(answer) and said.strip() == answer)
