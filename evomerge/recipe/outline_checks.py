"""What a campaign over models whose weights lie elsewhere must be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.models import Model
from evomerge.errors import CheckpointError
from evomerge.interfaces import Objective
from evomerge.recipe.findings import Finding, info, refusal


def is_remote(model: Model) -> bool:
    """Whether it is an outline."""
    return isinstance(model, Checkpoint) and model.outline is not None


def check_outlines(
    base: Checkpoint, models: Mapping[str, Model], objectives: Mapping[str, Objective]
) -> Iterator[Finding]:
    """All findings: outlines go together, and take objectives that need no weights.

    Args:
        objectives: by metric, those that could be made.
    """
    here = [name for name, model in {"base": base, **models}.items() if not is_remote(model)]
    if here:
        text = f"{here[0]} is here, and others are outlines; their weights never meet"
        yield refusal("models", text, CheckpointError.exit_code)
    elif not base.tensors:
        text = "the outline of the base has no tensors; is it a model's?"
        yield refusal("base", text, CheckpointError.exit_code)
    else:
        yield info("models", "outlines: candidates are coefficients, and exports are recipes")
    for metric, objective in objectives.items():
        if objective.needs != "coefficients":
            text = f"it needs the {objective.needs}, and the weights lie elsewhere"
            yield refusal(
                f"goal {metric}", f"{text}; measure it where they are, by evomerge_server"
            )
