"""The quick form of the search's bars; the long one is ``python experiments/search/bars.py``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "experiments" / "search"


def test_auto_is_clearly_ahead_of_twice_as_many_random_points() -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / "quick.py"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        timeout=300,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
