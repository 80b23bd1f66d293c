"""What a look before the start found: one sentence each, by severity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from evomerge.checkpoint.names import shown
from evomerge.errors import EvomergeError

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One sentence about a campaign.

    Attributes:
        severity: an ``error`` would end the campaign, a ``warning`` may spoil its results.
        about: what it is about, one word or two: ``tokenizer``, ``disk``.
        exit_code: of an error; 0 for the others.
    """

    severity: Severity
    about: str
    text: str
    exit_code: int = 0

    def row(self) -> dict[str, Any]:
        """As a listing shows it."""
        return {"severity": self.severity, "about": self.about, "finding": self.text}


def info(about: str, text: str) -> Finding:
    """Something good to know."""
    return Finding("info", about, text)


def warning(about: str, text: str) -> Finding:
    """Something that may spoil the results."""
    return Finding("warning", about, text)


def failure(about: str, error: EvomergeError) -> Finding:
    """An error of ours as a finding, with its place and what to do."""
    return Finding("error", about, str(error).replace("\n", "; "), error.exit_code)


def refusal(about: str, text: str, exit_code: int = 2) -> Finding:
    """Something that would end the campaign."""
    return Finding("error", about, text, exit_code)


def in_bytes(count: float) -> str:
    """A size for people: ``4.8 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def words(names: list[str]) -> str:
    """Names from outside in a sentence."""
    return ", ".join(shown(name) for name in names)
