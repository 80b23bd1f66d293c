"""Answers that are no answer: an HTTP status, and an error in the shape that OpenAI gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """A request that is not carried out.

    Args:
        status: of HTTP, 400 or more.
        message: what was got, what is allowed.
        code: a word for programs.
        headers: beside the usual ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "invalid_request",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """As JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}
