"""Where in an answer a value stands: ``$.choices[0].text``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.errors import UsageError
from evomerge.objectives.endpoint.failures import EndpointError

_STEP = re.compile(r"\.([A-Za-z_][\w-]*)|\[(-?\d+)\]|\[(?:'([^']*)'|\"([^\"]*)\")\]")


@dataclass(frozen=True)
class Path:
    """A parsed path; ``$`` alone is the whole answer."""

    text: str
    steps: tuple[str | int, ...]

    @classmethod
    def parse(cls, text: str) -> Path:
        """A path of names and indices, negative ones from the end.

        Raises:
            UsageError: if it is none.
        """
        if not text.startswith("$"):
            raise UsageError(f"{text!r:.60} is no path; $.name or $.names[0] is wanted")
        steps: list[str | int] = []
        at = 1
        while at < len(text):
            found = _STEP.match(text, at)
            if found is None:
                raise UsageError(f"the path {text!r:.60} cannot be read from character {at} on")
            name, index, single, double = found.groups()
            steps.append(int(index) if index is not None else name or single or double or "")
            at = found.end()
        return cls(text, tuple(steps))

    def of(self, answer: Any) -> Any:
        """The value there.

        Raises:
            EndpointError: if the answer has nothing there.
        """
        value = answer
        for step in self.steps:
            if _has(value, step):
                value = value[step]
            else:
                held = sorted(value) if isinstance(value, Mapping) else type(value).__name__
                raise EndpointError(
                    f"the answer has nothing at {self.text}: no {step!r} in {held!s:.120}"
                )
        return value


def _has(value: Any, step: str | int) -> bool:
    if isinstance(step, str):
        return isinstance(value, Mapping) and step in value
    return isinstance(value, list) and -len(value) <= step < len(value)
