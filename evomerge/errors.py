"""Every error that evomerge raises on purpose.

::

    EvomergeError                     exit code
    ├── UsageError                    2   a command, or what it was given, makes no sense
    │   ├── CampaignError             2   the campaign or recipe file (file:line:column)
    │   └── PluginError               2   a name that no plug-in has (also a LookupError)
    ├── CheckpointError               3   a model file is broken, hostile or does not fit
    ├── StudyError                    4   the study's folder or database
    │   ├── StudyLockedError          4   another process holds it
    │   ├── StudyDamagedError         4   the database is not whole
    │   ├── StudyMismatchError        4   another campaign's study
    │   └── DiskFullError             4   no space left for the study or for a checkpoint
    ├── ObjectiveError                5   objectives failed for good (failure budget)
    ├── InfeasibleError               6   finished, but nothing meets the limits
    └── StoppedError                  75  stopped cleanly; the same command continues

An error says its cause; where it lies; what was kept; and the next command, each when there is one.
"""

from __future__ import annotations


class EvomergeError(Exception):
    """Base of the tree.

    Args:
        cause: one sentence: what was got and what is allowed.
        place: where, e.g. ``campaign.yaml:12:5`` or a file.
        kept: what is safe, e.g. ``all 31 told trials are kept``.
        command: the next command to type.
    """

    exit_code = 1

    def __init__(
        self,
        cause: str,
        *,
        place: str | None = None,
        kept: str | None = None,
        command: str | None = None,
    ) -> None:
        super().__init__(cause)
        self.cause = cause
        self.place = place
        self.kept = kept
        self.command = command

    def __str__(self) -> str:
        head = f"{self.place}: {self.cause}" if self.place else self.cause
        tail = [self.kept, f"next: {self.command}" if self.command else None]
        rest = "; ".join(part for part in tail if part)
        return f"{head}\n{rest}" if rest else head


class UsageError(EvomergeError):
    """A command, or what it was given, makes no sense."""

    exit_code = 2


class CampaignError(UsageError):
    """The campaign or recipe file says something that is not allowed."""


class PluginError(UsageError, LookupError):
    """No plug-in has this name, or it cannot be loaded."""


class CheckpointError(EvomergeError):
    """A model file is broken, hostile, or does not fit the others."""

    exit_code = 3


class StudyError(EvomergeError):
    """The study's folder or database cannot be used."""

    exit_code = 4


class StudyLockedError(StudyError):
    """Another process is the study's writer."""


class StudyDamagedError(StudyError):
    """The database is not a database, or not whole."""


class StudyMismatchError(StudyError):
    """The study belongs to another campaign, or to a newer evomerge."""


class DiskFullError(StudyError):
    """There is no space left for the study or for a checkpoint."""


class ObjectiveError(EvomergeError):
    """Objectives failed for good: the failure budget is spent."""

    exit_code = 5


class InfeasibleError(EvomergeError):
    """The campaign finished, but no trial meets the limits."""

    exit_code = 6


class StoppedError(EvomergeError):
    """Stopped cleanly by a signal or a spent budget; the same command continues."""

    exit_code = 75
