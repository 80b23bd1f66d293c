"""References: what every study measures first, and what search and control have in common."""

from __future__ import annotations

from evomerge.trial import Trial


def is_reference(trial: Trial) -> bool:
    """Whether it is the base, a parent or the uniform average."""
    origin = trial.candidate.origin
    return origin in ("base", "uniform") or origin.startswith("parent ")
