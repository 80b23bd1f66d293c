"""``evomerge init URL``: outlines of what a server has, as files beside the campaign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.checkpoint.files import write_file
from evomerge.checkpoint.outline import SUFFIX, Outline
from evomerge.errors import UsageError
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.options import EndpointOptions
from evomerge.objectives.endpoint.query import Query
from evomerge.recipe.reader import NAME, nearest


def is_url(text: str) -> bool:
    """Whether a base is a server."""
    return text.startswith(("http://", "https://"))


def fetch_outlines(
    url: str, chosen: Sequence[str], folder: Path, *, key_env: str | None
) -> tuple[Path, list[Path]]:
    """Write outlines of a server's base and models; files that are there are replaced.

    Args:
        chosen: names of models; empty for the whole pool.
        key_env: environment variable with the key; None sends none.

    Returns:
        The files of the base and of the models.

    Raises:
        EndpointError: the server does not answer, or it is no ``evomerge serve``.
        UsageError: it has no such model.
    """
    settings = {"url": url} if key_env is None else {"url": url, "api_key_env": key_env}
    client = Client(EndpointOptions.read(settings))
    (answer,) = client.ask([Query(None, path="/v1/outline", method="GET", pure=False)])
    found = {outline.name: outline for outline in _outlines(answer, Path(url))}
    if "base" not in found or len(found) < 2:
        raise UsageError("this is no `evomerge serve`: it outlines no base and models", place=url)
    names = chosen or [name for name in found if name != "base"]
    for name in names:
        if name not in found:
            raise UsageError(f"the server has no model {name!r}{nearest(name, found)}", place=url)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}{SUFFIX}" for name in ("base", *names)}
    for name, path in paths.items():
        write_file(path, found[name].file_bytes())
    return paths["base"], [paths[name] for name in names]


def _outlines(answer: Any, url: Path) -> list[Outline]:
    told = answer.get("outlines") if isinstance(answer, Mapping) else None
    outlines = [Outline.parse(one, url) for one in told] if isinstance(told, list) else []
    for outline in outlines:
        if not NAME.fullmatch(outline.name):  # it becomes a file's name
            raise UsageError(f"the server calls a model {outline.name!r:.60}", place=str(url))
    return outlines
