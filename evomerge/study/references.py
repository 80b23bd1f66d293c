"""References: what a study measures first, and what search and control have in common."""

from __future__ import annotations

from evomerge.trial import Trial


def is_reference(trial: Trial) -> bool:
    """Whether it is the base, a parent or the uniform average; not one that a fork carried over."""
    origin = trial.candidate.origin
    return origin in ("base", "uniform", f"{_PARENT}{model_of(origin)}")


def model_of(origin: str) -> str | None:
    """The model that a trial of this origin is by itself, carried over or not; None for others."""
    if not origin.startswith(_PARENT):
        return None
    return origin.removeprefix(_PARENT).partition(",")[0]


_PARENT = "parent "
