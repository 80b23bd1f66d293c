"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from evomerge.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
_NAMED = re.compile(r"([A-Za-z0-9_.-]+)=(.+)", re.DOTALL)


def study_argument(command: F) -> F:
    """``STUDY``: a campaign file or a study's folder."""
    return click.argument("study", type=PATH)(command)


def campaign_argument(command: F) -> F:
    """``CAMPAIGN``: a campaign file."""
    return click.argument("campaign", type=PATH)(command)


def adapter_options(command: F) -> F:
    """``--lora`` and ``--rank``: a merge as an adapter."""
    lora = click.option(
        "--lora", is_flag=True, help="Write a LoRA adapter to the base, not a full checkpoint."
    )
    rank = click.option(
        "--rank",
        type=click.IntRange(min=1),
        help="Of the adapter, at most; cuts what does not fit and says what is lost.",
    )
    return lora(rank(command))


def checkpoint_options(command: F) -> F:
    """``--dtype`` and ``--shard-size`` of a written checkpoint."""
    dtype = click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        help="Of the written tensors; the campaign's, else the base's own, by default.",
    )
    shard_size = click.option(
        "--shard-size", metavar="SIZE", help="Largest shard, such as 5GB (the default) or 500MB."
    )
    return dtype(shard_size(command))


def named_models(models: tuple[str, ...]) -> dict[str, Path]:
    """Name to path of models given as a path or as NAME=PATH.

    Without a name it is the last part of the path.

    Raises:
        UsageError: if a name is taken, or is ``base``.
    """
    found: dict[str, Path] = {}
    for model in models:
        named = _NAMED.fullmatch(model)
        path = Path(named[2] if named and not Path(model).exists() else model)
        name = named[1] if named and not Path(model).exists() else _name(path)
        if name in found or name == "base":
            raise UsageError(f"the name {name!r} is taken; give each model its own: NAME={path}")
        found[name] = path
    return found


def _name(path: Path) -> str:
    stem = path.absolute().name.removesuffix(".safetensors")
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.") or "model"
