"""The objective that is any program: it reads a JSON file and prints JSON.

::

    objective: {type: command, command: [python, judge.py, "{input}"], items: items.jsonl}

The file holds ``folder`` (the merge as a checkpoint folder, null where only coefficients are
wanted), ``coefficients`` by name, ``indices`` and ``items``. What is printed is what a Python
objective returns: a list of numbers, an object with ``items`` and perhaps ``margins`` and
``rates``, such by metric, or one number where there are no items.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from evomerge.checkpoint import strict_json
from evomerge.errors import UsageError
from evomerge.interfaces import Need
from evomerge.objectives import options as read
from evomerge.objectives.items import items_of
from evomerge.objectives.program import Program
from evomerge.trial import InvalidScoresError, Scores

OPTIONS = ("command", "items", "needs", "timeout", "env")


class CommandObjective:
    """A program as an `evomerge.interfaces.Objective`; run once for each evaluation.

    Args:
        options: ``command``: a list of words, or a text that is split as a shell would; ``{input}``
            in it is the JSON file, ``{folder}`` the checkpoint folder, ``{output}`` a file that
            may be written instead of printing, ``{python}`` this Python; ``items``: a JSONL file
            or how many there are; ``needs``: candidate (a checkpoint folder and coefficients) or
            coefficients; ``timeout``: in seconds; ``env``: further environment variables.
        folder: in which the program runs and relative paths start.

    Raises:
        UsageError: if an option is unknown or senseless, or the program is not there.
    """

    def __init__(self, options: Mapping[str, Any], *, folder: Path) -> None:
        read.check_names(options, OPTIONS)
        self._folder = folder.absolute()
        self._words = _words(options.get("command"))
        self._needs = cast(Need, read.choice(options, "needs", ("candidate", "coefficients")))
        self._items = items_of(options.get("items"), folder)
        self._seconds = _seconds(options.get("timeout"))
        self._more = _environment(options.get("env"))
        self._check_program()

    @property
    def needs(self) -> Need:
        """A checkpoint folder with its coefficients, or these alone."""
        return self._needs

    @property
    def count(self) -> int | None:
        """How many items there are; None without items."""
        return None if self._items is None else len(self._items)

    def evaluate(self, subject: Any, items: Sequence[int] | None) -> Scores | Mapping[str, Scores]:
        """What the program answers, checked; by metric if it answers a mapping by metric.

        Args:
            subject: `evomerge.objectives.subject.Written`, or coefficients by name.
            items: indices in [0, count); None without items.

        Raises:
            ObjectiveError: if the program fails, takes too long or prints too much.
            InvalidScoresError: if it does not answer one finite number per item.
        """
        whole = self._needs == "candidate"
        given = {
            "folder": str(subject.folder) if whole else None,
            "coefficients": dict(subject.coefficients if whole else subject),
        }
        with tempfile.TemporaryDirectory(prefix="evomerge-") as scratch:
            asked, answer = Path(scratch, "input.json"), Path(scratch, "output.json")
            asked.write_text(json.dumps({**given, **self._asked(items)}, allow_nan=False))
            printed = self._program(given["folder"], asked, answer).run()
            written = answer.read_bytes() if answer.exists() else None
        found = _parsed(printed, written, self._words[0])
        count = None if items is None else len(items)
        if isinstance(found, Mapping) and "items" not in found:
            return {key: Scores.of(found[key], count, metric=key) for key in found}
        return Scores.of(found, count, metric=self._words[0])

    def _asked(self, items: Sequence[int] | None) -> dict[str, Any]:
        if items is None or self._items is None:
            return {"indices": None, "items": None}
        return {"indices": list(items), "items": [self._items[i] for i in items]}

    def _program(self, folder: Any, asked: Path, answer: Path) -> Program:
        places: dict[str, str] = {
            "folder": folder or "",
            "input": str(asked),
            "output": str(answer),
            "python": sys.executable,
        }
        words = [_filled(word, places) for word in self._words]
        environment = {**os.environ, **self._more}
        environment |= {f"EVOMERGE_{k.upper()}": v for k, v in places.items() if k != "python"}
        return Program(words, self._folder, environment, self._seconds)

    def _check_program(self) -> None:
        name = self._words[0]
        here = self._folder / Path(name).expanduser()
        if name == "{python}" or shutil.which(name if os.sep not in name else str(here)):
            return
        raise UsageError(f"command: there is no program {name!r} that could be run")


def _words(given: Any) -> tuple[str, ...]:
    try:
        words = shlex.split(given) if isinstance(given, str) else given
    except ValueError as error:
        raise UsageError(f"command is {given!r:.80}: {error}") from error
    if not isinstance(words, list | tuple) or not words or not all(map(_is_word, words)):
        raise UsageError(
            f"command is {given!r:.80}; a list of words is wanted, such as "
            '["{python}", judge.py, "{input}"]'
        )
    return tuple(str(word) for word in words)


def _is_word(word: Any) -> bool:
    return (isinstance(word, str) and bool(word)) or isinstance(word, int | float)


def _filled(word: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        word = word.replace("{" + name + "}", value)
    return word


def _seconds(given: Any) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
        raise UsageError(f"timeout is {given!r}; a positive number of seconds is wanted")
    return float(given)


def _environment(given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(v, str) for v in given.values()):
        raise UsageError("env holds names with texts; numbers stand in quotes")
    return {str(name): value for name, value in given.items()}


def _parsed(printed: bytes, written: bytes | None, program: str) -> Any:
    """The file if there is one, else all that was printed, else its last line."""
    texts = [written] if written is not None else [printed, *printed.strip().splitlines()[-1:]]
    for text in texts:
        try:
            return strict_json.loads(text)
        except strict_json.JSONProblem as error:
            problem = error
    where = "printed no JSON" if written is None else "wrote no JSON"
    shown = texts[-1][:60].decode(errors="replace")
    raise InvalidScoresError(f"{program} {where}: {problem}: {shown!r}")
