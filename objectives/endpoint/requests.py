"""Request bodies with places to fill: ``{"inputs": "{item.prompt}", "scale": "{weights.math}"}``.

A text that is one place and nothing else becomes the value itself, a number or a list; a place
within a longer text becomes text. ``{{`` and ``}}`` are braces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.errors import UsageError

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def places(template: Any) -> Iterator[str]:
    """The names of all places in a template."""
    if isinstance(template, str):
        for found in _PIECE.finditer(template):
            if found[0] in ("{", "}"):
                raise UsageError(
                    f"a lone brace in {template!r:.60}; write {{{{ or }}}} for a brace itself"
                )
            if found[1] is not None:
                yield found[1]
    elif isinstance(template, Mapping):
        for inner in template.values():
            yield from places(inner)
    elif isinstance(template, list):
        for inner in template:
            yield from places(inner)


def filled(template: Any, values: Mapping[str, Any]) -> Any:
    """The template with its places filled.

    Args:
        values: by the first word of a place; further words, parted by dots, are keys or indices.

    Raises:
        UsageError: if a place names nothing.
    """
    if isinstance(template, str):
        whole = re.fullmatch(r"\{([^{}]*)\}", template)
        if whole:
            return _looked_up(whole[1], values)
        return _PIECE.sub(lambda found: _piece(found, values), template)
    if isinstance(template, Mapping):
        return {key: filled(inner, values) for key, inner in template.items()}
    if isinstance(template, list):
        return [filled(inner, values) for inner in template]
    return template


def _piece(found: re.Match[str], values: Mapping[str, Any]) -> str:
    if found[1] is None:
        return found[0][0]
    value = _looked_up(found[1], values)
    return value if isinstance(value, str) else json.dumps(value)


def _looked_up(place: str, values: Mapping[str, Any]) -> Any:
    value: Any = values
    for word in place.split("."):
        if isinstance(value, Mapping) and word in value:
            value = value[word]
        elif isinstance(value, list) and word.isdecimal() and int(word) < len(value):
            value = value[int(word)]
        else:
            known = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise UsageError(f"{{{place}}}: there is no {word!r} among {known!s:.120}")
    return value
