"""An export's manifest: what every file in the folder must be.

A file is known by its size and SHA-256, as ``sha256sum`` prints it and the Hugging Face hub shows
it. Processors with instructions for it need half the time of blake2b, by which earlier manifests
know their files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.export.lineage import FORMAT, MANIFEST

SHA256, BLAKE2B = "sha256", "blake2b"


def file_digest(path: Path, algorithm: str = SHA256) -> dict[str, int | str]:
    """Size and digest (hex) of a file."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        return {"size": size, algorithm: hashlib.file_digest(file, algorithm).hexdigest()}


def manifest(
    folder: Path, content: Mapping[str, Any], known: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """The manifest's bytes: the content, and the digest of every file that the folder holds.

    Args:
        known: SHA-256 (hex) of files that need not be read again, by their path within the folder.
    """
    files: dict[str, dict[str, int | str]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and path.name != MANIFEST:
            found = known.get(name)
            size = path.stat().st_size
            files[name] = {"size": size, SHA256: found} if found else file_digest(path)
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
        algorithm = BLAKE2B if BLAKE2B in digest else SHA256
        found = file_digest(path, algorithm)
        if found["size"] != digest["size"]:
            detail = f"{found['size']} bytes, {digest['size']} written"
            findings.append({"file": name, "finding": "size differs", "detail": detail})
        elif found != digest:
            findings.append({"file": name, "finding": "content differs", "detail": algorithm})
    known = {*wanted, MANIFEST}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in known:
            findings.append({"file": name, "finding": "not in the manifest", "detail": ""})
    return findings
