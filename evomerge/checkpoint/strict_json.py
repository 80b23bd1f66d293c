"""JSON from outside, read strictly: no duplicate keys, no NaN, no half characters, no bombs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

from evomerge.checkpoint.names import quoted

_SPACE = re.compile(r"[ \t\n\r]*")


class JSONProblem(Exception):
    """The text is not strict JSON; the message is a clause such as ``not valid JSON: ...``."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _) = Counter(key for key, _ in pairs).most_common(1)[0]
        raise JSONProblem(f"the key {quoted(name)} occurs twice")
    return found


def _no_constant(word: str) -> NoReturn:
    raise JSONProblem(f"{word} is not JSON")


def _whole_number(digits: str) -> int:
    if digits == "-0":  # read differently by different libraries
        raise JSONProblem("-0 is not a whole number")
    return int(digits)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_int=_whole_number
)


def decoded(data: bytes) -> str:
    """The text of UTF-8 bytes."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JSONProblem(f"not UTF-8 at byte {error.start}") from None


def loads(data: bytes) -> Any:
    """The value of a JSON document."""
    cursor = Cursor(decoded(data))
    value = cursor.value()
    cursor.end()
    return value


class Cursor:
    """A place in a JSON text, so that large objects are read member by member.

    What is wrong is then found before the rest of the text is turned into Python objects.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self.at = 0
        self._skip()

    def members(self) -> Iterator[str]:
        """Keys of the object here; the caller reads each value before it asks for the next."""
        self._expect("{")
        if self._take("}"):
            return
        while True:
            key = self.string()
            self._expect(":")
            yield key
            if self._take("}"):
                return
            self._expect(",")

    def string(self) -> str:
        """The string here."""
        if not self._text.startswith('"', self.at):
            raise JSONProblem(f"a string should stand at character {self.at}")
        value = self.value()
        if not isinstance(value, str):  # cannot be: it starts with a quote
            raise JSONProblem(f"a string should stand at character {self.at}")
        return value

    def small_object(self, longest: int) -> Any:
        """The object here, which holds no other and ends within `longest` characters."""
        end = self._text.find("}", self.at, self.at + longest)
        if end < 0 or not self._text.startswith("{", self.at):
            raise JSONProblem(
                f"an object of at most {longest} characters should stand at character {self.at}"
            )
        value, used = _decode(self._text[self.at : end + 1], 0, self.at)
        self.at += used
        self._skip()
        return value

    def value(self) -> Any:
        """The value here, whatever it is."""
        value, self.at = _decode(self._text, self.at, 0)
        self._skip()
        return value

    def end(self) -> None:
        """Nothing but white space may follow."""
        if self.at < len(self._text):
            raise JSONProblem(f"something follows the end, at character {self.at}")

    def _expect(self, char: str) -> None:
        if not self._take(char):
            raise JSONProblem(f"not valid JSON: {char!r} should stand at character {self.at}")

    def _take(self, char: str) -> bool:
        found = self._text.startswith(char, self.at)
        if found:
            self.at += 1
            self._skip()
        return found

    def _skip(self) -> None:
        match = _SPACE.match(self._text, self.at)
        self.at = match.end() if match else self.at


def _decode(text: str, at: int, offset: int) -> tuple[Any, int]:
    """One value and the index behind it; strings with half a surrogate pair are refused."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        place = error.pos + offset
        raise JSONProblem(f"not valid JSON: {error.msg} at character {place}") from None
    except RecursionError:
        raise JSONProblem("nested too deeply") from None
    except ValueError:  # an integer with thousands of digits
        raise JSONProblem("not valid JSON: a number is too long") from None
    if "\\u" in text[at:end]:
        _no_half_characters(value)
    return value, end


def _no_half_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise JSONProblem("a string holds half a surrogate pair") from None
