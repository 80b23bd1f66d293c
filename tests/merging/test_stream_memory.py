"""A streamed merge takes a few megabytes, not a few models; the full size is in experiments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "memory" / "stream_memory.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RssAnon is in Linux's /proc")
def test_peak_memory_is_far_below_one_tensor(tmp_path: Path) -> None:
    """The largest tensor has 8 M entries, 32 MB as float32; a merge of whole tensors needs five
    such buffers. Most of what is taken is the compiler of the loops, more where it has to compile
    them first: 200 MB against 170."""
    size = ["--megabytes", "64", "--limit", "240", "--threads", "1", "--folder", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, str(SCRIPT), *size], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
