"""Digests: blake2b of canonical JSON or of a file's bytes, in hexadecimal."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from evomerge.trial import Candidate

_CHUNK = 1 << 20


def digest(content: Any) -> str:
    """Of canonical JSON: 32 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Of a file's bytes: 32 hexadecimal digits."""
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


def candidate_digest(candidate: Candidate) -> str:
    """Of what a measurement of a candidate depends on: its number, method and parameters."""
    return digest([candidate.number, candidate.method, dict(candidate.parameters)])[:16]
