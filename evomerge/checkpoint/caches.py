"""Where this user's caches lie: what is there saves work, and nothing else depends on it."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "EVOMERGE_CACHE"
"""The environment variable that names the folder."""

DIGESTS = "digests.json"
"""The file of `evomerge.checkpoint.digests` within the folder."""

INDEX = "magnitudes"
"""The folder of `evomerge.merging.index` within the folder."""


def cache_folder() -> Path:
    """EVOMERGE_CACHE, else evomerge in XDG_CACHE_HOME or ``~/.cache``; perhaps not there yet.

    XDG_CACHE_HOME counts only when it is absolute, as the XDG base directory specification has it.
    """
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser().absolute()
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path("~/.cache").expanduser()) / "evomerge"
