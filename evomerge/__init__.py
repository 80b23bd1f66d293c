"""evomerge finds the best ways to merge fine-tuned models.

Public names are exported here, once, and imported when first used: ``import evomerge`` loads
neither torch nor optuna nor nevergrad.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from evomerge._version import __version__

if TYPE_CHECKING:
    from evomerge.errors import CampaignError as CampaignError
    from evomerge.errors import CheckpointError as CheckpointError
    from evomerge.errors import DiskFullError as DiskFullError
    from evomerge.errors import EvomergeError as EvomergeError
    from evomerge.errors import InfeasibleError as InfeasibleError
    from evomerge.errors import ObjectiveError as ObjectiveError
    from evomerge.errors import PluginError as PluginError
    from evomerge.errors import StoppedError as StoppedError
    from evomerge.errors import StudyDamagedError as StudyDamagedError
    from evomerge.errors import StudyError as StudyError
    from evomerge.errors import StudyLockedError as StudyLockedError
    from evomerge.errors import StudyMismatchError as StudyMismatchError
    from evomerge.errors import UsageError as UsageError
    from evomerge.export.merge import write_merge as write_merge
    from evomerge.goals import Goal as Goal
    from evomerge.recipe.campaign import Campaign as Campaign
    from evomerge.study.loop import RunResult as RunResult
    from evomerge.study.loop import run as run
    from evomerge.study.study import Study as Study
    from evomerge.trial import Candidate as Candidate
    from evomerge.trial import Evaluation as Evaluation
    from evomerge.trial import Measured as Measured
    from evomerge.trial import Outcome as Outcome
    from evomerge.trial import Scores as Scores
    from evomerge.trial import Trial as Trial
    from evomerge.trial import TrialState as TrialState

_HOMES = {
    "Campaign": "evomerge.recipe.campaign",
    "CampaignError": "evomerge.errors",
    "Candidate": "evomerge.trial",
    "CheckpointError": "evomerge.errors",
    "DiskFullError": "evomerge.errors",
    "Evaluation": "evomerge.trial",
    "EvomergeError": "evomerge.errors",
    "Goal": "evomerge.goals",
    "InfeasibleError": "evomerge.errors",
    "Measured": "evomerge.trial",
    "ObjectiveError": "evomerge.errors",
    "Outcome": "evomerge.trial",
    "PluginError": "evomerge.errors",
    "RunResult": "evomerge.study.loop",
    "Scores": "evomerge.trial",
    "StoppedError": "evomerge.errors",
    "Study": "evomerge.study.study",
    "StudyDamagedError": "evomerge.errors",
    "StudyError": "evomerge.errors",
    "StudyLockedError": "evomerge.errors",
    "StudyMismatchError": "evomerge.errors",
    "Trial": "evomerge.trial",
    "TrialState": "evomerge.trial",
    "UsageError": "evomerge.errors",
    "run": "evomerge.study.loop",
    "write_merge": "evomerge.export.merge",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'evomerge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
