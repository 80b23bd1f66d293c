"""From nodes to checked values: what was got, what is allowed, and where, for every mistake.

A parser is a function from a `Node` to a value that raises `CampaignError`. A `Section` reads a
mapping key by key; the keys that nobody asked for are unknown. Mistakes are gathered, so that
one run shows them all.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from evomerge.checkpoint.hub import hub_id, snapshot
from evomerge.errors import CampaignError, CheckpointError, UsageError
from evomerge.recipe.strict_yaml import Node, Place

T = TypeVar("T")
Parser = Callable[[Node], T]

SHOWN = 5
NAME = re.compile(r"[A-Za-z0-9_.-]+")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_THOUSANDS = {"k": 10**3, "M": 10**6, "G": 10**9}
_BYTES |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def error(cause: str, where: Node | Place) -> CampaignError:
    """The error of one mistake at its place."""
    return CampaignError(cause, place=str(where.place if isinstance(where, Node) else where))


def got(node: Node) -> str:
    """What stands there, as the user wrote it, short."""
    if isinstance(node.value, Mapping):
        return "a mapping"
    if isinstance(node.value, tuple):
        return "a list"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return str(node.value).lower()
    shown = repr(node.value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` and the known words."""
    known = list(known)
    folded = {item.casefold(): item for item in known}
    near = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]!r}? " if near else ""
    return f"; {hint}allowed: {', '.join(known)}"


class Section:
    """A mapping that is being read.

    Args:
        node: the mapping.
        name: how messages call it, ``budget``; empty for the whole file.
        problems: where mistakes are gathered; shared by all sections of a file.
    """

    def __init__(self, node: Node, name: str, problems: list[UsageError]) -> None:
        if not isinstance(node.value, Mapping):
            whole = name or "the file"
            raise error(f"{whole} is {got(node)}; a mapping of keys to values is wanted", node)
        self.node = node
        self.name = name
        self.problems = problems
        self._items = node.value
        self._asked: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._items

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys, in file order."""
        return tuple(self._items)

    def get(self, key: str, parse: Parser[T], default: T) -> T:
        """The parsed value; the default where the key is missing or its value is a mistake."""
        self._asked.append(key)
        if key not in self._items:
            return default
        try:
            return parse(self._items[key])
        except UsageError as problem:
            self.problems.append(_named(problem, self.path(key)))
            return default

    def require(self, key: str, parse: Parser[T], meaning: str) -> T:
        """The parsed value of a key without which nothing else can be checked."""
        self._asked.append(key)
        if key not in self._items:
            missing = f"{self.path(key)} is missing: {meaning}"
            near = difflib.get_close_matches(key, set(self._items) - set(self._asked), n=1)
            place = self.node.keys[near[0]] if near else self.node.place
            raise error(missing + (f"; is {near[0]!r} meant for it?" if near else ""), place)
        try:
            return parse(self._items[key])
        except UsageError as problem:
            raise _named(problem, self.path(key)) from None

    def section(self, key: str) -> Section | None:
        """A part that is a mapping; None where it is missing or no mapping."""
        return self.get(key, lambda node: Section(node, self.path(key), self.problems), None)

    def path(self, key: str) -> str:
        """The key's full name, ``budget.trials``."""
        return f"{self.name}.{key}" if self.name else key

    def finish(self, later: Mapping[str, str] | None = None) -> None:
        """Report the keys that nobody asked for.

        Args:
            later: keys of this section that a later version brings, with what they need.
        """
        for key in self._items:
            if key in self._asked:
                continue
            if later and key in later:
                cause = f"{self.path(key)} is not in this version yet: {later[key]}"
            else:
                where = f" in {self.name}" if self.name else ""
                cause = f"unknown key {key!r}{where}{nearest(key, self._asked)}"
            self.problems.append(error(cause, self.node.keys[key]))


def _named(problem: UsageError, name: str) -> UsageError:
    """The same mistake, saying which key it is about, once."""
    if problem.cause.startswith(name) or name in problem.cause.split(" ", 1)[0]:
        return problem
    kind = type(problem)
    return kind(f"{name}: {problem.cause}", place=problem.place, command=problem.command)


def raise_all(problems: Collection[UsageError]) -> None:
    """Raise what was gathered as one error, in file order; nothing if there is nothing."""
    if not problems:
        return
    ordered = sorted(problems, key=_position)
    first, others = ordered[0], ordered[1:]
    lines = [first.cause, *(f"{p.place}: {p.cause}" for p in others[: SHOWN - 1])]
    if len(others) >= SHOWN:
        lines.append(f"and {len(others) - SHOWN + 1} more")
    raise type(first)("\n".join(lines), place=first.place, command=first.command)


def _position(problem: UsageError) -> tuple[int, int]:
    found = re.search(r":(\d+):(\d+)$", problem.place or "")
    return (int(found[1]), int(found[2])) if found else (0, 0)


def text(node: Node) -> str:
    """Text that is not empty and has no control characters."""
    if not isinstance(node.value, str):
        hint = "; put it in quotes" if isinstance(node.value, (bool, int, float)) else ""
        raise error(f"{got(node)} stands here; text is wanted{hint}", node)
    if not node.value.strip() or any(ord(c) < 32 or ord(c) == 127 for c in node.value):
        raise error(f"{got(node)} stands here; one line of text is wanted", node)
    return node.value


def word(*allowed: str, later: Mapping[str, str] | None = None) -> Parser[str]:
    """One of the allowed words."""

    def parse(node: Node) -> str:
        value = text(node)
        if later and value in later:
            raise error(f"{value!r} is not in this version yet: {later[value]}", node)
        if value not in allowed:
            raise error(f"{value!r} stands here{nearest(value, allowed)}", node)
        return value

    return parse


def boolean(node: Node) -> bool:
    """``true`` or ``false``."""
    if not isinstance(node.value, bool):
        raise error(f"{got(node)} stands here; true or false is wanted", node)
    return node.value


def number(
    *, above: float = -math.inf, low: float = -math.inf, high: float = math.inf
) -> Parser[float]:
    """A finite number, ``> above``, ``>= low`` and ``<= high``."""

    def parse(node: Node) -> float:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise error(f"{got(node)} stands here; a number is wanted", node)
        if not (math.isfinite(value) and value > above and low <= value <= high):
            raise error(f"{got(node)} stands here; {_interval(above, low, high)} is wanted", node)
        return float(value)

    return parse


def integer(low: int, high: int = 2**63 - 1) -> Parser[int]:
    """A whole number in ``[low, high]``."""

    def parse(node: Node) -> int:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            upper = f" to {high}" if high < 2**63 - 1 else " or more"
            raise error(f"{got(node)} stands here; a whole number, {low}{upper}, is wanted", node)
        return value

    return parse


def _interval(above: float, low: float, high: float) -> str:
    bounds = [
        f"above {above:g}" if above > -math.inf else "",
        f"{low:g} or more" if low > -math.inf else "",
        f"{high:g} or less" if high < math.inf else "",
    ]
    wanted = " and ".join(bound for bound in bounds if bound)
    return f"a number {wanted}" if wanted else "a finite number"


def listing(item: Parser[T], *, what: str) -> Parser[tuple[T, ...]]:
    """A list, each of its items parsed."""

    def parse(node: Node) -> tuple[T, ...]:
        if not isinstance(node.value, tuple):
            raise error(f"{got(node)} stands here; a list of {what} is wanted", node)
        return tuple(item(child) for child in node.value)

    return parse


def seconds(node: Node) -> float:
    """A duration: a number of seconds, or ``90s``, ``10m``, ``2h``, ``1d``."""
    if isinstance(node.value, str):
        found = re.fullmatch(r"([0-9.]+) ?([smhd])", node.value)
        if found and _is_number(found[1]) and float(found[1]) > 0:
            return float(found[1]) * _UNITS[found[2]]
    elif not isinstance(node.value, bool) and isinstance(node.value, (int, float)):
        return number(above=0)(node)
    raise error(f"{got(node)} stands here; seconds above 0, or 90s, 10m, 2h are wanted", node)


def byte_count(node: Node) -> int:
    """A size: a number of bytes, or ``500MB``, ``5GB``, ``4GiB``."""
    if isinstance(node.value, str):
        found = re.fullmatch(r"([0-9.]+) ?([A-Za-z]+)", node.value)
        unit = _BYTES.get(found[2].upper()) if found else None
        if found and unit and _is_number(found[1]) and float(found[1]) * unit >= 1:
            return int(float(found[1]) * unit)
    elif not isinstance(node.value, bool) and isinstance(node.value, int):
        return integer(1)(node)
    raise error(f"{got(node)} stands here; bytes, or a size such as 5GB or 500MB, is wanted", node)


def amount(node: Node) -> int:
    """A count: a whole number, or ``500k``, ``20M``, ``1.5G``."""
    if isinstance(node.value, str):
        found = re.fullmatch(r"([0-9.]+) ?([kMG])", node.value)
        if found and _is_number(found[1]) and float(found[1]) * _THOUSANDS[found[2]] >= 1:
            return round(float(found[1]) * _THOUSANDS[found[2]])
    elif not isinstance(node.value, bool) and isinstance(node.value, int):
        return integer(1)(node)
    raise error(f"{got(node)} stands here; a count such as 5000, 500k or 20M is wanted", node)


def _is_number(digits: str) -> bool:
    return re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", digits) is not None


def path_from(folder: Path) -> Parser[Path]:
    """A path: ``~`` is the home folder, a relative one starts at `folder`, which is absolute."""

    def parse(node: Node) -> Path:
        value = text(node)
        if "://" in value or value.startswith("hf:"):
            raise error(
                f"{got(node)} stands here; a folder or file on this machine is wanted", node
            )
        try:
            expanded = Path(value).expanduser()
        except RuntimeError:
            raise error(f"{got(node)} stands here; no home folder is known for it", node) from None
        return folder / expanded

    return parse


def model_path_from(folder: Path, *, bare: bool = False) -> Parser[Path]:
    """Where a model lies: a path, or the snapshot of an id of the hub, ``org/name@revision``.

    Args:
        bare: ``org/name`` is an id too, where no such folder is.
    """
    local = path_from(folder)

    def parse(node: Node) -> Path:
        path = local(node)
        found = hub_id(text(node), bare=bare)
        if found is None or path.exists():
            return path
        try:
            return snapshot(found)
        except CheckpointError as problem:
            place = str(node.place)
            raise CampaignError(problem.cause, place=place, command=problem.command) from None

    return parse


def name(what: str) -> Parser[str]:
    """A name of letters, digits and ``_ . -``."""

    def parse(node: Node) -> str:
        value = node.value if isinstance(node.value, str) else str(node.plain())
        check_name(value, what, node.place)
        return value

    return parse


def check_name(value: str, what: str, place: Place) -> None:
    """Refuse a name that parameter names could not hold."""
    if not NAME.fullmatch(value) or value in {".", ".."}:
        raise error(f"the {what} {value!r} may hold only letters, digits and _ . -", place)
