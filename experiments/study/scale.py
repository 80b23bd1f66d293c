"""How long a large study takes: 5,000 trials, 200 parameters, 300 items, two goals.

    python experiments/study/scale.py [--trials 5000] [--folder DIR]

Makes a real study of a small model with 200 parameters, tells it trial after trial, and prints
what an ask and a tell took beside the sampler's own time, and what opening, resuming and listing
the finished study take. Exits with 1 if a bar of the project is missed: 20 ms for an ask and a
tell, 2 s for opening, resuming and listing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from evomerge.study.study import Study
from evomerge.trial import Candidate, Scores

LAYERS, ITEMS = 25, 500  # 25 layers x 2 kinds x 2 models x 2 fields = 200; 60 % of 500 items
ASK_AND_TELL_SECONDS, LIST_SECONDS = 0.020, 2.0

CAMPAIGN = """
base: base
models: {math: math, code: code}
merge:
  method: sparse_signed
  groups: {layers: each, modules: [attention, mlp]}
goals:
  - {metric: a, objective: {type: python, function: "score.py:a", items: ITEMS}}
  - {metric: b, objective: {type: python, function: "score.py:b", items: ITEMS}}
items: {search: 60%, selection: 20%, test: 20%}
sampler: SAMPLER
budget: {trials: 100000}
study: study.evomerge
"""


def make_campaign(folder: Path, sampler: str) -> Path:
    """A base, two models and a campaign file."""
    generator = np.random.default_rng(0)
    for name in ("base", "math", "code"):
        (folder / name).mkdir()
        tensors = {
            f"model.layers.{layer}.{kind}.weight": generator.normal(size=(2, 2)).astype("f4")
            for layer in range(LAYERS)
            for kind in ("self_attn.q_proj", "mlp.up_proj")
        }
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
        (folder / name / "config.json").write_text('{"model_type": "llama"}')
    (folder / "score.py").write_text("def a(subject, items): ...\n\n\ndef b(subject, items): ...\n")
    path = folder / "campaign.yaml"
    path.write_text(CAMPAIGN.replace("ITEMS", str(ITEMS)).replace("SAMPLER", sampler))
    return path


def fill(study: Study, trials: int) -> list[float]:
    """Tells scores with margins, trial after trial; the seconds of each ask and tell."""
    generator = np.random.default_rng(1)
    took = []
    for _ in range(trials):
        margins = generator.normal(size=(2, ITEMS * 6 // 10))
        scores = {
            metric: Scores(items=(row > 0).astype(float).tolist(), margins=row.tolist())
            for metric, row in zip("ab", margins, strict=True)
        }
        start = time.perf_counter()
        asked = study.ask_next()
        if not isinstance(asked, Candidate):
            raise SystemExit("nothing to ask")
        study.tell(asked, scores)
        took.append(time.perf_counter() - start)
    return took


def disk(folder: Path) -> float:
    """The median seconds of what an ask and a tell cannot do without: two fsyncs."""
    took = []
    with (folder / "probe").open("wb", buffering=0) as probe:
        for _ in range(100):
            start = time.perf_counter()
            for _ in range(2):
                probe.write(b"x" * 20_000)
                os.fsync(probe.fileno())
            took.append(time.perf_counter() - start)
    return statistics.median(took)


def main() -> int:
    """Prints the figures; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("--sampler", default="random", help="one that takes next to no time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        campaign = make_campaign(Path(folder), arguments.sampler)
        with Study.open(campaign) as study:
            print(f"{len(study.recipe.space)} parameters, {ITEMS * 6 // 10} items, 2 goals")
            took = fill(study, arguments.trials)
        last = took[-min(500, len(took)) :]
        print(
            f"ask + tell, {arguments.sampler} included: median {statistics.median(took):.4f} s, "
            f"last {len(last)}: median {statistics.median(last):.4f} s, "
            f"99th percentile {np.quantile(took, 0.99):.4f} s, largest {max(took):.4f} s"
        )
        print(f"two synchronised writes on this disk: median {disk(Path(folder)):.4f} s")
        size = (Path(folder) / "study.evomerge" / "study.db").stat().st_size
        print(f"database: {size / 1e6:.0f} MB")
        listing = measure(campaign, "s = Study.read(path); s.trials(); s.front(); s.history()")
        resume = measure(
            campaign, "s = Study.open(path); s.ask_next(); s.trials(); s.front(); s.close()"
        )
    fine = statistics.median(last) < ASK_AND_TELL_SECONDS and max(listing, resume) < LIST_SECONDS
    print("within the bars" if fine else "a bar is missed")
    return 0 if fine else 1


def measure(campaign: Path, code: str) -> float:
    """The seconds of some code in a fresh process, after its imports."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom evomerge.study.study import Study\n"
        f"path = Path(sys.argv[1])\nstart = time.perf_counter()\n{code}\n"
        "print(time.perf_counter() - start)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(campaign)], capture_output=True, text=True, check=True
    )
    seconds = float(run.stdout)
    print(f"{code}: {seconds:.2f} s")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
