"""The quick form of the search's bars; the long one is ``python experiments/search/bars.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "experiments" / "search"


def test_auto_does_what_random_points_and_tpe_need_twice_as_many_merges_for() -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / "quick.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
