"""An export's manifest: what every file in the folder must be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.export.lineage import FORMAT, MANIFEST

CHUNK_BYTES = 1 << 20


def file_digest(path: Path) -> dict[str, int | str]:
    """Size and blake2b of a file, read in chunks."""
    digest, size = hashlib.blake2b(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return {"size": size, "blake2b": digest.hexdigest()}


def manifest(
    folder: Path, content: Mapping[str, Any], known: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """The manifest's bytes: the content, and the digest of every file that the folder holds.

    Args:
        known: digests of files that need not be read again, by their path within the folder.
    """
    files: dict[str, dict[str, int | str]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and path.name != MANIFEST:
            found = known.get(name)
            size = path.stat().st_size
            files[name] = {"size": size, "blake2b": found} if found else file_digest(path)
    return (json.dumps({**content, "files": files}, indent=2) + "\n").encode()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export.

    Raises:
        CheckpointError: if there is none, or it is not one.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"no {MANIFEST} here: not an export", place=str(folder)) from error
    except ValueError as error:
        raise CheckpointError(f"the manifest is damaged ({error})", place=str(path)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or "files" not in content:
        raise CheckpointError("not the manifest of an export", place=str(path))
    return content


def verify(folder: Path) -> list[dict[str, str]]:
    """What differs between a folder and its manifest, ``[]`` when nothing does.

    Returns:
        Rows with ``file``, ``finding`` and ``detail``.
    """
    wanted = read_manifest(folder)["files"]
    findings = []
    for name, digest in sorted(wanted.items()):
        path = folder / name
        if not path.is_file():
            findings.append({"file": name, "finding": "missing", "detail": ""})
            continue
        found = file_digest(path)
        if found["size"] != digest["size"]:
            detail = f"{found['size']} bytes, {digest['size']} written"
            findings.append({"file": name, "finding": "size differs", "detail": detail})
        elif found != digest:
            findings.append({"file": name, "finding": "content differs", "detail": "blake2b"})
    known = {*wanted, MANIFEST}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in known:
            findings.append({"file": name, "finding": "not in the manifest", "detail": ""})
    return findings
