"""The short form of the kill test; the long one is ``python experiments/kill/kill_test.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "kill" / "kill_test.py"


@pytest.mark.slow
def test_ten_kills_change_nothing_of_a_campaign(tmp_path: Path) -> None:
    options = ["--kills", "10", "--no-faults", "--folder", str(tmp_path / "kills")]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all equal" in done.stdout
