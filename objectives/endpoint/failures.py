"""What an endpoint can do to an evaluation."""

from __future__ import annotations

from evomerge.errors import ObjectiveError, StoppedError


class EndpointError(ObjectiveError):
    """A query failed for good; fails this evaluation, not the campaign.

    Attributes:
        status: of the last reply; None if there was none.
    """

    def __init__(
        self, cause: str, *, place: str | None = None, status: int | None = None, **more: str | None
    ) -> None:
        super().__init__(cause, place=place, kept=more.get("kept"), command=more.get("command"))
        self.status = status


class EndpointDownError(EndpointError):
    """The endpoint fails every query, or refuses us; stops the campaign, and no trial fails."""


class SpendError(StoppedError):
    """The budget of requests, tokens or money would be exceeded by the next request."""
