"""Item files: JSON Lines, one item per line, read strictly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint import strict_json
from evomerge.errors import UsageError


@dataclass(frozen=True)
class Line:
    """One item and where it stands.

    Attributes:
        value: whatever JSON the line holds.
        place: ``file:line``, for messages.
    """

    value: Any
    place: str


def read_items(path: Path) -> tuple[Line, ...]:
    """Every line that is not blank.

    Raises:
        UsageError: if the file is missing or holds no item, or a line is not strict JSON (NaN and
            keys that occur twice are refused), with ``file:line``.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the items cannot be read: {error.strerror or error}", place=str(path)
        ) from error
    lines = enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    items = tuple(_line(text, f"{path}:{number}") for number, text in lines if text.strip())
    if not items:
        raise UsageError("there are no items; one JSON object per line is wanted", place=str(path))
    return items


def items_of(given: Any, folder: Path) -> Sequence[Any] | None:
    """The option ``items`` of objectives that pass them on: a file's values, or a count's indices.

    Raises:
        UsageError: if it is neither a JSONL file nor a positive count.
    """
    if given is None:
        return None
    if isinstance(given, str):
        lines = read_items(folder / Path(given).expanduser())
        return tuple(line.value for line in lines)
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return range(given)
    raise UsageError(f"items is {given!r:.80}; a JSONL file or a positive count is wanted")


def _line(text: bytes, place: str) -> Line:
    try:
        return Line(strict_json.loads(text), place)
    except strict_json.JSONProblem as problem:
        raise UsageError(f"an item cannot be read: {problem}", place=place) from None
