"""How long the command line takes to start: medians of `--help` and `status`, beside bare Python.

    python experiments/startup/startup.py [STUDY]

Without a study it makes a tiny one. Exits with 1 if a median is over the bar of 0.4 s of wall time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

RUNS = 9
BAR_SECONDS = 0.4
CAMPAIGN = """\
base: base
models: {one: one, two: two}
goals:
  - {metric: score, objective: {type: python, function: "score.py:score", items: 10}}
budget: {trials: 8}
study: study
"""


def make_study(folder: Path) -> Path:
    """A campaign with a study of three trials, one of them told; returns the campaign file."""
    for number, name in enumerate(("base", "one", "two")):
        (folder / name).mkdir()
        tensor = np.full((4, 4), float(number), "f4")
        path = folder / name / "model.safetensors"
        save_file({"model.layers.0.mlp.up_proj.weight": tensor}, path, metadata={"format": "pt"})
        (folder / name / "config.json").write_text('{"model_type": "llama"}')
    (folder / "score.py").write_text("def score(subject, items): ...\n")
    campaign = folder / "campaign.yaml"
    campaign.write_text(CAMPAIGN)
    for words in (["ask", str(campaign), "-n", "3"], ["tell", str(campaign), "0", "score=1"]):
        subprocess.run([sys.executable, "-m", "evomerge", *words], check=True, capture_output=True)
    return campaign


def seconds_of(command: list[str]) -> tuple[float, float]:
    """Medians of wall and processor time over `RUNS` starts, in seconds."""
    walls, loads = [], []
    for _ in range(RUNS):
        before, began = os.times(), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        walls.append(time.perf_counter() - began)
        after = os.times()
        loads.append(
            after.children_user
            - before.children_user
            + after.children_system
            - before.children_system
        )
    return statistics.median(walls), statistics.median(loads)


def main() -> int:
    """Measure and print; the exit code says whether the bar is met."""
    with tempfile.TemporaryDirectory() as scratch:
        study = Path(sys.argv[1]) if len(sys.argv) > 1 else make_study(Path(scratch))
        evomerge = [sys.executable, "-m", "evomerge"]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "evomerge --help": [*evomerge, "--help"],
            "evomerge status": [*evomerge, "status", str(study)],
        }
        print(f"{'command':<18} wall s   CPU s   (medians of {RUNS})")
        slowest = 0.0
        for name, command in commands.items():
            wall, load = seconds_of(command)
            slowest = max(slowest, wall)
            print(f"{name:<18} {wall:6.3f}  {load:6.3f}")
    print(f"bar: {BAR_SECONDS} s; {'met' if slowest < BAR_SECONDS else 'missed'}")
    return 0 if slowest < BAR_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
