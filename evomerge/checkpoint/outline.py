"""Outlines: what a campaign must know of a model whose weights lie elsewhere.

A model behind a server is searched by coefficients alone; groups and parameters follow from the
names and shapes of its tensors, which an outline file holds::

    {"format": "evomerge outline", "version": 1, "name": "math", "digest": "5f0c...",
     "tensors": {"model.layers.0.mlp.up_proj.weight": ["BF16", [11008, 4096]]}}

A file's name ends with ``.outline.json``. Only the base's has tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint.dtypes import DTYPES
from evomerge.checkpoint.header import LONGEST_HEADER, MOST_DIMENSIONS, MOST_TENSORS, TensorEntry
from evomerge.checkpoint.names import quoted, shown
from evomerge.checkpoint.strict_json import JSONProblem, loads
from evomerge.errors import CheckpointError

SUFFIX = ".outline.json"
FORMAT = "evomerge outline"
VERSION = 1

_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Outline:
    """A model without its weights.

    Attributes:
        name: as the server that has the weights calls it.
        digest: of the weights, as the server tells it; another digest is another model.
        tensors: by name; empty for a model beside the base, which has the base's.
    """

    name: str
    digest: str
    tensors: Mapping[str, TensorEntry]

    @classmethod
    def parse(cls, document: object, path: Path) -> Outline:
        """An outline from JSON, nothing of it trusted.

        Args:
            path: what its tensors' entries name as their file.

        Raises:
            CheckpointError: if it is none.
        """
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise _broken(path, f"is no outline: 'format' is not {FORMAT!r}")
        if document.get("version") != VERSION:
            raise _broken(path, f"is of version {document.get('version')!r:.20}; {VERSION} is read")
        tensors = document.get("tensors", {})
        if not isinstance(tensors, dict) or len(tensors) > MOST_TENSORS:
            raise _broken(path, "has no object of tensors")
        return cls(
            _text(document, "name", path),
            _text(document, "digest", path),
            {name: _entry(name, told, path) for name, told in tensors.items()},
        )

    @classmethod
    def read(cls, path: Path) -> Outline:
        """An outline from its file.

        Raises:
            CheckpointError: if it cannot be read, or is none.
        """
        try:
            if path.stat().st_size > LONGEST_HEADER:
                raise _broken(path, f"is larger than {LONGEST_HEADER} bytes")
            return cls.parse(loads(path.read_bytes()), path)
        except OSError as error:
            raise _broken(path, error.strerror or str(error)) from None
        except JSONProblem as problem:
            raise _broken(path, f"is {problem}") from None

    def to_json(self) -> dict[str, Any]:
        """What `parse` reads."""
        tensors = {name: [entry.dtype, list(entry.shape)] for name, entry in self.tensors.items()}
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "digest": self.digest,
            "tensors": tensors,
        }

    def file_bytes(self) -> bytes:
        """The content of an outline file."""
        return (json.dumps(self.to_json(), indent=1) + "\n").encode()


def is_outline(path: Path) -> bool:
    """Whether a path is named like an outline file."""
    return path.name.endswith(SUFFIX)


def _text(document: Mapping[str, Any], key: str, path: Path) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not value or len(value) > 200 or not value.isprintable():
        raise _broken(path, f"has no {key}: a short text is wanted")
    return value


def _entry(name: str, told: object, path: Path) -> TensorEntry:
    dtype, shape = told if isinstance(told, list) and len(told) == 2 else ("", None)
    sizes = shape if isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS else [-1]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in sizes)
    if not (isinstance(dtype, str) and dtype in DTYPES and whole):
        raise _broken(path, f"tells {quoted(name)} as {told!r:.60}; [dtype, [sizes]] is wanted")
    size = math.prod(sizes) * DTYPES[dtype].size
    if size > _LARGEST:
        raise _broken(path, f"tells {quoted(name)} larger than any tensor can be")
    return TensorEntry(name, dtype, tuple(sizes), path, 0, int(size))


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(what, place=shown(path))
