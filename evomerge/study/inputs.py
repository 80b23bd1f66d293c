"""The files that decide results: shards of base and models, items and code of objectives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.checkpoint.digests import shard_digests
from evomerge.checkpoint.models import open_model
from evomerge.recipe.logit_fusion import LARGE
from evomerge.study.database import Database

if TYPE_CHECKING:
    from evomerge.recipe.campaign import Campaign

CACHE = "digests.json"
CODE = "code of"
"""Roles that start with this are remembered, but may change: a repaired objective resumes."""


@dataclass(frozen=True)
class Input:
    """One file.

    Attributes:
        role: ``base``, ``models.math``, ``logit_fusion.large``, ``items of gsm8k``,
            ``code of gsm8k``.
        file: its name within the checkpoint, or as the campaign file says it.
        size: bytes.
        digest: blake2b of all of them, hex.
    """

    role: str
    file: str
    size: int
    digest: str


def read_inputs(campaign: Campaign, folder: Path) -> tuple[Input, ...]:
    """Digests of all inputs; unchanged files (size, time of change, inode) are not read again.

    Args:
        folder: the study's, where the digests are remembered.

    Raises:
        CheckpointError: if a checkpoint is not there, or broken.
    """
    cache = folder / CACHE
    found: list[Input] = []
    recipe = campaign.recipe
    models = {f"models.{name}": path for name, path in recipe.models.items()}
    fusion = campaign.logit_fusion
    large = {LARGE: fusion.large} if fusion and fusion.large else {}
    for role, path in {"base": recipe.base, **models, **large}.items():
        with open_model(path) as model:
            digests = model.digests(cache)
        found += [Input(role, name, d.size, d.blake2b) for name, d in sorted(digests.items())]
    for metric, spec in campaign.objectives.items():
        files = dict(_named_files(spec.options, campaign.path.parent))
        for name, digest in shard_digests(files, cache).items():
            kind = CODE if files[name].suffix == ".py" else "items of"
            found.append(Input(f"{kind} {metric}", name, digest.size, digest.blake2b))
    return tuple(found)


def _named_files(options: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path]]:
    """Files that an objective's options name, alone or before a colon: ``score.py:function``.

    Of a folder of tasks, ``include_path``, all that are in it.
    """
    for text in _texts(options):
        for name in (text, text.rpartition(":")[0]):
            path = folder / Path(name).expanduser() if name and "\0" not in name else None
            if path is not None and len(name) < 1024 and path.is_file():
                yield name, path
                break
    tasks = options.get("include_path")
    if isinstance(tasks, str) and "\0" not in tasks:
        for path in sorted((folder / Path(tasks).expanduser()).glob("*.y*ml")):
            yield f"{tasks}/{path.name}", path


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _texts(inner)


def store_inputs(database: Database, inputs: Sequence[Input]) -> None:
    """Replaces the remembered inputs, inside the caller's transaction."""
    database.execute("DELETE FROM inputs")
    for given in inputs:
        database.execute(
            "INSERT INTO inputs VALUES (?, ?, ?, ?)",
            [given.role, given.file, given.size, given.digest],
        )


def load_inputs(database: Database) -> tuple[Input, ...]:
    """The remembered inputs."""
    rows = database.rows("SELECT role, file, size, digest FROM inputs ORDER BY role, file")
    return tuple(Input(*row) for row in rows)


def changed_inputs(old: Sequence[Input], new: Sequence[Input]) -> list[str]:
    """One line for every file that came, went or has another content."""
    before = {(given.role, given.file): given for given in old}
    after = {(given.role, given.file): given for given in new}
    lines = []
    for role, file in sorted(before.keys() | after.keys()):
        was, now = before.get((role, file)), after.get((role, file))
        if was is None:
            lines.append(f"{role}: {file} is new")
        elif now is None:
            lines.append(f"{role}: {file} is gone")
        elif was.size != now.size:
            lines.append(f"{role}: {file} has changed, from {was.size} to {now.size} bytes")
        elif was.digest != now.digest:
            lines.append(f"{role}: {file} has changed (same size, other content)")
    return lines
