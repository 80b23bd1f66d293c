"""What a campaign says of a large model behind an API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.errors import UsageError
from evomerge.objectives import options as read
from evomerge.objectives.endpoint.options import EndpointOptions
from evomerge.recipe.logit_fusion import SERVER

TOP = 20
"""Tokens to ask for unless the campaign says otherwise."""


@dataclass(frozen=True)
class RemoteOptions:
    """The options `SERVER`, in order.

    Attributes:
        endpoint: where the API is, with ``/v1``, and how it is reached.
        model: its name there.
        top: how many of the likeliest tokens to ask for.
        echo: whether the API tells those at the prompt's places too.
        extra: fields of every body.
    """

    endpoint: EndpointOptions
    model: str
    top: int
    echo: bool
    extra: Mapping[str, Any]

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> RemoteOptions:
        """From the campaign's section.

        Raises:
            UsageError: if one is not in order, or would hold a secret.
        """
        read.check_names(options, SERVER)
        echo, extra = options.get("echo", True), options.get("extra", {})
        if not isinstance(echo, bool) or not isinstance(extra, Mapping):
            raise UsageError("echo is true or false, and extra a mapping of fields")
        model = read.required_text(options, "model", "the model's name")
        top = read.count(options, "top") or TOP
        return cls(EndpointOptions.read(options), model, top, echo, extra)


def check(options: Mapping[str, Any]) -> None:
    """Some of the options, or all, as `RemoteOptions.read` takes them; as it raises."""
    RemoteOptions.read({"url": "http://127.0.0.1", "model": "any", **options})
