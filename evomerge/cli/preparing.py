"""A new study is refused before anything is written, if its campaign cannot go well."""

from __future__ import annotations

import shlex

from evomerge.cli.output import escape, say
from evomerge.errors import (
    CheckpointError,
    EvomergeError,
    ObjectiveError,
    StudyError,
    UsageError,
)
from evomerge.recipe.campaign import Campaign
from evomerge.recipe.findings import Finding
from evomerge.study.folder import holds_study
from evomerge.study.forking import find

SHOWN = 3
_KINDS: tuple[type[EvomergeError], ...] = (
    UsageError,
    CheckpointError,
    StudyError,
    ObjectiveError,
)


def prepare(campaign: Campaign) -> None:
    """Look for what would go wrong, as ``evomerge check`` does; a study that exists has passed.

    Raises:
        EvomergeError: of the kind of the gravest finding, if one is an error.
    """
    if holds_study(find(campaign)):
        return
    from evomerge.recipe.preflight import preflight

    findings = preflight(campaign)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise _refusal(errors, campaign)
    for finding in findings:
        if finding.severity == "warning":
            say(f"warning: {finding.about}: {escape(finding.text)}")


def _refusal(errors: list[Finding], campaign: Campaign) -> EvomergeError:
    code = max(finding.exit_code for finding in errors)
    kind = next((kind for kind in _KINDS if kind.exit_code == code), UsageError)
    texts = [f"{finding.about}: {finding.text}" for finding in errors[:SHOWN]]
    if len(errors) > SHOWN:
        texts.append(f"and {len(errors) - SHOWN} more errors")
    return kind(
        "\n  ".join(texts),
        kept="nothing was written",
        command=f"evomerge check {shlex.quote(str(campaign.path))}",
    )
