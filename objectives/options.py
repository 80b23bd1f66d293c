"""Options of an objective as the campaign file gives them: known names, right types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.errors import UsageError
from evomerge.registry import unknown


def check_names(options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse an option that the objective does not have.

    Raises:
        UsageError: naming the nearest known one.
    """
    for name in options:
        if name not in known:
            raise UsageError(unknown("option", name, known))


def choice(options: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    """One of a few words; the first where the option is absent."""
    value = options.get(name, allowed[0])
    if value not in allowed:
        raise UsageError(f"{name} is {value!r}; one of {', '.join(allowed)} is wanted")
    return str(value)


def count(options: Mapping[str, Any], name: str) -> int | None:
    """A positive integer, or None where the option is absent or null."""
    value = options.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} is {value!r}; a positive integer is wanted")
    return value


def text(options: Mapping[str, Any], name: str) -> str | None:
    """A string, or None where the option is absent or null."""
    value = options.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name} is {value!r}; a text is wanted")
    return value


def required_text(options: Mapping[str, Any], name: str, example: str) -> str:
    """A string that is not empty."""
    value = text(options, name)
    if not value:
        raise UsageError(f"{name} is missing; say for example `{name}: {example}`")
    return value


def flag(options: Mapping[str, Any], name: str) -> bool:
    """True or false; false where the option is absent."""
    value = options.get(name, False)
    if not isinstance(value, bool):
        raise UsageError(f"{name} is {value!r}; true or false is wanted")
    return value


def whole(options: Mapping[str, Any], name: str, default: int = 0) -> int:
    """A whole number from 0; `default` where the option is absent."""
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"{name} is {value!r}; a whole number from 0 is wanted")
    return value
