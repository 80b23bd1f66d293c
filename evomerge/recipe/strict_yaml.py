"""YAML without surprises: every value knows its line and column, and means what it looks like.

Scalars follow the core schema of YAML 1.2: ``1e-4`` is a number, ``no`` and ``2024-01-01`` are
text. Duplicate keys, tags, merge keys and second documents are refused. Size, depth and what
aliases expand to are capped, so that no file can fill the memory.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import CampaignError

Scalar = str | int | float | bool | None

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
MAX_DEPTH = 30
MAX_DIGITS = 40
_HUGE: int = 10**MAX_DIGITS

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})


@dataclass(frozen=True)
class Place:
    """Where a value stands; line and column count from 1."""

    source: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Node:
    """A value with its place.

    Attributes:
        value: a scalar, a tuple of nodes, or a mapping from keys to nodes in file order.
        place: of the value's first character.
        keys: places of a mapping's keys.
        size: how many nodes it holds, itself included, aliases expanded.
        height: how many levels it holds, itself included, aliases expanded.
    """

    value: Scalar | tuple[Node, ...] | Mapping[str, Node]
    place: Place
    keys: Mapping[str, Place] = field(default_factory=dict)
    size: int = 1
    height: int = 1

    def plain(self) -> Any:
        """The value as Python's own scalars, lists and dictionaries."""
        if isinstance(self.value, tuple):
            return [item.plain() for item in self.value]
        if isinstance(self.value, Mapping):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value


def read(path: Path) -> str:
    """The text of a campaign or recipe file.

    Raises:
        CampaignError: if it is missing, no regular file, over 1 MB, or not UTF-8.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CampaignError("this is not a file", place=str(path))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        command = "evomerge init BASE MODEL... writes a campaign file"
        raise CampaignError("there is no such file", place=str(path), command=command) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CampaignError(f"cannot be read: {reason}", place=str(path)) from error
    return _decoded(data, str(path))


def load(text: str, source: str) -> Node:
    """The tree of one YAML document.

    Args:
        text: the document.
        source: what places call it, a file name.

    Raises:
        CampaignError: with ``file:line:column``, on anything but strict YAML.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise CampaignError(f"over {MAX_BYTES:,} bytes; this is no campaign file", place=source)
    try:
        return _Builder(text, source).document()
    except yaml.reader.ReaderError as error:
        raise _unreadable(error, text, source) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, text, source) from None


def _decoded(data: bytes, source: str) -> str:
    if len(data) > MAX_BYTES:
        raise CampaignError(f"over {MAX_BYTES:,} bytes; this is no campaign file", place=source)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        place = str(Place(source, line, column))
        raise CampaignError("not UTF-8 text", place=place) from None


def _unreadable(error: yaml.reader.ReaderError, text: str, source: str) -> CampaignError:
    """The control character that YAML forbids, found again: libyaml counts bytes."""
    found = re.search(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
    at = found.start() if found else 0
    place = Place(source, text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1)
    what = repr(text[at]) if found else str(error.reason)
    return CampaignError(f"the character {what} is not allowed in YAML", place=str(place))


def _syntax(error: yaml.MarkedYAMLError, text: str, source: str) -> CampaignError:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return CampaignError(f"not YAML: {error.problem}", place=source)
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    indent = line[: len(line) - len(line.lstrip())]
    hint = "; indent by spaces, a tab is not allowed" if "\t" in indent else ""
    context = f" {error.context}" if error.context else ""
    place = str(Place(source, mark.line + 1, mark.column + 1))
    return CampaignError(f"not YAML: {error.problem}{context}{hint}", place=place)


class _Builder:
    """Makes nodes of the parser's events; recursion is as deep as `MAX_DEPTH` at most."""

    def __init__(self, text: str, source: str) -> None:
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))
        self._source = source
        self._anchors: dict[str, Node] = {}

    def document(self) -> Node:
        next(self._events)  # start of the stream
        if not isinstance(next(self._events), yaml.DocumentStartEvent):
            raise CampaignError("the file is empty", place=self._source)
        root = self._node(next(self._events), 1)
        next(self._events)  # end of the document
        after = next(self._events)
        if isinstance(after, yaml.DocumentStartEvent):
            raise self._error("a second document starts here; one is wanted", after)
        return root

    def _place(self, event: Any) -> Place:
        return Place(self._source, event.start_mark.line + 1, event.start_mark.column + 1)

    def _error(self, cause: str, event: Any) -> CampaignError:
        return CampaignError(cause, place=str(self._place(event)))

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        if event.tag is not None:
            raise self._error(f"the tag {event.tag!r} is not allowed; put text in quotes", event)
        if depth > MAX_DEPTH:
            raise self._too_deep(event)
        node = self._made(event, depth)
        if node.size > MAX_NODES:
            raise self._error(f"expands to more than {MAX_NODES:,} values", event)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _too_deep(self, event: Any) -> CampaignError:
        return self._error(f"nested deeper than {MAX_DEPTH} levels", event)

    def _alias(self, event: Any, depth: int) -> Node:
        if event.anchor not in self._anchors:
            raise self._error(f"no anchor &{event.anchor} stands before this alias", event)
        node = self._anchors[event.anchor]
        if depth + node.height - 1 > MAX_DEPTH:
            raise self._too_deep(event)
        return node

    def _made(self, event: Any, depth: int) -> Node:
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(event, depth)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(event, depth)
        plain = event.style in (None, "")
        value = self._scalar(event) if plain else event.value
        return Node(value, self._place(event))

    def _sequence(self, start: Any, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Node(tuple(items), self._place(start), {}, _size(items), _height(items))

    def _mapping(self, start: Any, depth: int) -> Node:
        items: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event)
            if key in keys:
                first = f"it stands first at {keys[key].line}:{keys[key].column}"
                raise self._error(f"the key {key!r} is given twice; {first}", event)
            keys[key] = self._place(event)
            items[key] = self._node(next(self._events), depth + 1)
        size, height = _size(items.values()), _height(items.values())
        return Node(items, self._place(start), keys, size, height)

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise self._error("a key must be a word", event)
        if event.value == "<<" and event.style in (None, ""):
            raise self._error("merge keys (<<) are not read; write the keys out", event)
        if event.tag is not None:
            raise self._error(f"the tag {event.tag!r} is not allowed", event)
        return str(event.value)

    def _scalar(self, event: Any) -> Scalar:
        text = event.value
        if text in _NULL:
            return None
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        number = _number(text)
        if isinstance(number, int) and abs(number) >= _HUGE:
            raise self._error(f"a whole number of over {MAX_DIGITS} digits", event)
        return text if number is None else number


def _size(items: Collection[Node]) -> int:
    return 1 + sum(node.size for node in items)


def _height(items: Collection[Node]) -> int:
    return 1 + max((node.height for node in items), default=0)


def _number(text: str) -> int | float | None:
    """The number that plain text means in YAML 1.2; None if it means text."""
    if _INTEGER.fullmatch(text):
        if len(text) > 10 * MAX_DIGITS:
            return _HUGE
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITY.fullmatch(text):
        return float(text.replace(".", "", 1))
    return float("nan") if text in _NAN else None
