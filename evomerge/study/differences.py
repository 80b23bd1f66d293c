"""What differs between two campaigns, for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_MISSING = object()
_LONGEST = 60


def differences(old: Any, new: Any) -> list[str]:
    """One line for every value that differs, such as ``sampler.name: "tpe" -> "cma"``.

    Args:
        old, new: JSON: mappings, lists, words and numbers, nested.
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    paths = [*before, *(path for path in after if path not in before)]
    return [
        f"{path}: {_shown(before, path)} -> {_shown(after, path)}"
        for path in paths
        if before.get(path, _MISSING) != after.get(path, _MISSING)
    ]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values of everything that holds nothing else; empty containers too."""
    if isinstance(value, Mapping) and value:
        for key in value:
            yield from _leaves(value[key], f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, list(value) if isinstance(value, tuple) else value


def _shown(leaves: Mapping[str, Any], path: str) -> str:
    if path not in leaves:
        return "(absent)"
    text = json.dumps(leaves[path], ensure_ascii=True)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
