"""API keys: read from the environment by name, shown to nobody."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

from evomerge.errors import UsageError

SHORTEST = 8
"""Characters of a key: a shorter one could not be blotted out without harm to other text."""

HIDDEN = "***"


class Secret:
    """A text that neither `repr`, `str` nor a format shows.

    Args:
        name: of the environment variable that it is from.
    """

    __slots__ = ("_value", "name")

    def __init__(self, value: str, name: str) -> None:
        self._value = value
        self.name = name

    def __repr__(self) -> str:
        return f"<the value of {self.name}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not pickled")

    def reveal(self) -> str:
        """The text itself, for the header that carries it."""
        return self._value

    def spellings(self) -> Iterable[str]:
        """The ways in which an answer or a log might repeat it."""
        plain = self._value
        return {plain, quote(plain, safe=""), quote_plus(plain), json.dumps(plain)[1:-1]}


def secret_from(name: str) -> Secret:
    """The value of an environment variable.

    Raises:
        UsageError: if it is not set, too short to be kept out of logs, or no header's value.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        raise UsageError(
            f"the environment variable {name} is not set; it is to hold the endpoint's API key",
            command=f"export {name}=...",
        )
    if len(value) < SHORTEST:
        raise UsageError(f"the key in {name} is shorter than {SHORTEST} characters")
    if not value.isascii() or not value.isprintable():
        raise UsageError(f"the key in {name} holds a character that no header can carry")
    return Secret(value, name)


class Redactor:
    """Blots secrets out of whatever is shown, stored or parsed."""

    def __init__(self, secret: Secret | None) -> None:
        words = () if secret is None else secret.spellings()
        self._words = sorted(words, key=len, reverse=True)

    def text(self, text: str) -> str:
        """The text without them."""
        for word in self._words:
            text = text.replace(word, HIDDEN)
        return text

    def data(self, data: bytes) -> bytes:
        """The bytes without them."""
        for word in self._words:
            data = data.replace(word.encode(), HIDDEN.encode())
        return data
