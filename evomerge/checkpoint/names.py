"""Names that came from outside: shown without harm, and kept inside their folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath, PurePosixPath

LONGEST_SHOWN = 120
LONGEST_PATH = 4096


def shown(text: object) -> str:
    """The text with every unprintable character escaped, cut to a readable length.

    Terminal codes, newlines and direction marks of a hostile name thus never reach a screen.
    """
    longest = LONGEST_PATH if isinstance(text, PurePath) else LONGEST_SHOWN
    head = str(text)[: longest + 1]
    escaped = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in head)
    return escaped if len(escaped) <= longest else escaped[: longest - 1] + "…"


def quoted(text: object) -> str:
    """`shown`, between quotes."""
    return f"'{shown(text)}'"


def listed(names: Sequence[object], most: int = 5) -> str:
    """Names in quotes, separated by commas; beyond `most` of them only their count."""
    head = ", ".join(quoted(name) for name in names[:most])
    return head if len(names) <= most else f"{head} and {len(names) - most} more"


def shard_name_problem(name: str) -> str | None:
    """Why a shard name out of an index is refused, or None when it stays inside the folder."""
    if not name:
        return "is empty"
    if not all(char.isprintable() for char in name):
        return "holds unprintable characters"
    if "\\" in name:
        return "holds a backslash"
    if name.startswith(("/", "~")) or re.match(r"[A-Za-z]:", name):
        return "is an absolute path"
    if ".." in PurePosixPath(name).parts:
        return "climbs out of the folder with '..'"
    if not name.endswith(".safetensors"):
        return "is not a .safetensors file; other formats can run code when read"
    return None
