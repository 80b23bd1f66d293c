"""Models of the Hugging Face hub: found in its cache on this machine, else downloaded into it.

Only safetensors, configs, tokenizers and cards are fetched, never a pickle. What the cache has of
a revision is used as it is, also where the branch has moved on since: a campaign that resumes
merges what it has measured. The folder of a snapshot is named after the commit.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from evomerge.checkpoint.folder import INDEX_SUFFIX, read_index
from evomerge.checkpoint.names import quoted
from evomerge.errors import CheckpointError

MAIN = "main"
FILES = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "*.md",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
)
_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w][\w./-]*))?")


class HubId(NamedTuple):
    """A model of the hub at a branch, a tag or a commit."""

    name: str
    revision: str

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"


def hub_id(spoken: str, *, bare: bool = False) -> HubId | None:
    """The id that a text is: ``org/name@revision``; None if it is something else.

    Args:
        bare: ``org/name`` is one too, at the revision ``main``.
    """
    found = _ID.fullmatch(spoken)
    if found is None or not (bare or found["revision"]):
        return None
    return HubId(found["name"], found["revision"] or MAIN)


def located(path: Path, *, only: str | None = None) -> Path:
    """A path of the command line: itself, or the snapshot if it is an id of the hub.

    Args:
        only: as `snapshot`.
    """
    found = None if path.exists() else hub_id(path.as_posix())
    return path if found is None else snapshot(found, only=only)


def origin(path: Path) -> HubId | None:
    """Model and commit of a folder in the cache of the hub; None for any other place."""
    holder = path.parent.parent
    if path.parent.name != "snapshots" or not holder.name.startswith("models--"):
        return None
    return HubId(holder.name.removeprefix("models--").replace("--", "/", 1), path.name)


def snapshot(model: HubId, *, only: str | None = None) -> Path:
    """The folder with the model's files.

    Args:
        only: the one file that is wanted; None for weights and all.

    Raises:
        CheckpointError: the extra ``hf`` is not installed, the hub cannot be reached, or it has no
            such model or revision.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(
            f"{model} is a model of the Hugging Face hub; huggingface_hub, which reads those, is "
            "not installed",
            command="pip install 'evomerge[hf]'",
        ) from None
    name, revision = model
    wanted = list(FILES) if only is None else [only]
    reason = "'the weights are not all there'" if only is None else f"'it has no {only}'"
    for local in (True, False):
        try:
            found = snapshot_download(
                name, revision=revision, allow_patterns=wanted, local_files_only=local
            )
        except (OSError, ValueError) as error:  # not in the cache, then: not reached, not there
            reason = _reason(error)
            continue
        if _whole(Path(found), only):  # without a connection the library gives what it has
            return Path(found)
    raise CheckpointError(
        f"{model} is not on this machine, whole, and cannot be downloaded: {reason}",
        command=f"hf download {name} {only or ''}".rstrip() + f" --revision {revision}",
    )


def _whole(folder: Path, only: str | None) -> bool:
    """Whether all that is wanted is there: a folder of the cache may hold a tokenizer alone."""
    if only is not None:
        return (folder / only).exists()
    if not any(folder.rglob("*.safetensors")):
        return False
    return all(
        (index.parent / shard).exists()
        for index in folder.rglob(f"*{INDEX_SUFFIX}")
        for shard in read_index(index.parent, index.name).values()
    )


def _reason(error: Exception) -> str:
    """The first line of what the library says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return quoted(lines[0]) if lines else type(error).__name__
