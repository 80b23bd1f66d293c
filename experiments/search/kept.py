"""Worlds that take long to train are kept on disk, below the system's temporary folder."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def kept(name: str, sources: list[ModuleType], make: Callable[[], T]) -> T:
    """What `make` returns, from disk if it was made before from the same sources.

    Args:
        name: of the file; what tells apart all that is made from these sources.
    """
    text = "".join(inspect.getsource(module) for module in sources)
    mark = hashlib.sha256(text.encode()).hexdigest()[:12]
    file = Path(tempfile.gettempdir()) / "evomerge-worlds" / f"{name}-{mark}.pickle"
    if not file.exists():
        made = make()
        file.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as new:
            pickle.dump(made, new)
        Path(new.name).replace(file)
    with file.open("rb") as stream:
        found: T = pickle.load(stream)
    return found
