"""Peak memory of a streamed merge.

Writes a base and three models of a given size, merges them into a new checkpoint in a fresh
process, and prints the peak of that process's resident anonymous memory (RssAnon in
/proc/self/status, sampled every millisecond) above what the interpreter with torch takes. File
pages that the kernel caches belong to nobody and are not counted.

    python experiments/memory/stream_memory.py

Exit code 1 if the peak is above the limit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.files import staged_folder
from evomerge.checkpoint.writer import CheckpointWriter
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan

ROW = 4096
METHODS = {
    "sparse_signed": {"weight": (0.6, -0.3, 0.8), "density": (0.2, 0.5, 0.9)},
    "ties": {"weight": (1.0, 1.0, 1.0), "density": (0.2, 0.2, 0.2), "scaling": 1.0},
    "model_stock": {"weight": (1.0, 1.0, 1.0)},
    "karcher": {"weight": (1.0, 1.0, 1.0)},
}


def layout(size: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """A quarter of the bytes in one tensor, as embeddings of small models are, the rest in 16."""
    rows = size // 2 // ROW
    blocks = [(f"layers.{i}.weight", "BF16", (rows * 3 // 4 // 16, ROW)) for i in range(16)]
    return [("embed_tokens.weight", "BF16", (rows // 4, ROW)), *blocks]


def write_model(folder: Path, size: int, seed: int) -> None:
    """Numbers like those of fine-tuned models: near the base, in bfloat16, with many ties.

    A million of them, again and again; the merge cannot tell.
    """
    numbers = torch.randn(2**20, generator=torch.Generator().manual_seed(0)) * 0.02
    if seed:
        numbers += torch.randn(2**20, generator=torch.Generator().manual_seed(seed)) * 1e-4
    block = numbers.to(torch.bfloat16)
    with (
        staged_folder(folder) as staged,
        CheckpointWriter(staged, layout(size), shard_size=size // 3) as writer,
    ):
        for name, _, (rows, _) in layout(size):
            for start in range(0, rows * ROW, len(block)):
                writer.write(name, start, block[: rows * ROW - start])
        writer.finish()


def resident_anonymous() -> int:
    """Bytes."""
    text = Path("/proc/self/status").read_text()
    return (
        int(next(line for line in text.splitlines() if line.startswith("RssAnon")).split()[1]) << 10
    )


class Peak(threading.Thread):
    """Samples until told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest, self.done = resident_anonymous(), threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.001):
            self.highest = max(self.highest, resident_anonymous())


def measure(folder: Path, method: str, threads: int) -> None:
    """Merge in this process; print the peak above the start, in bytes, and the seconds taken."""
    torch.set_num_threads(threads)
    torch.ones(8).add_(1)  # torch is ready
    peak = Peak()
    before = peak.highest
    peak.start()
    begin = time.perf_counter()
    base = Checkpoint.open(folder / "base")
    models = {f"m{i}": Checkpoint.open(folder / f"m{i}") for i in (1, 2, 3)}
    plan = MergePlan(method, tuple(models), dict.fromkeys(base.tensors, METHODS[method]))
    with staged_folder(folder / f"merged-{method}") as staged:
        Merger(base, models).write(plan, staged)
    seconds = time.perf_counter() - begin
    peak.done.set()
    peak.join()
    print(max(peak.highest, resident_anonymous()) - before, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000, help="of each checkpoint")
    parser.add_argument(
        "--limit", type=int, default=400, help="megabytes above interpreter and torch"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the checkpoints go for a while")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(Path(options.measure[0]), options.measure[1], options.threads)
        return 0
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        for seed, name in enumerate(["base", "m1", "m2", "m3"]):
            write_model(Path(place, name), options.megabytes * 10**6, seed)
        for method in METHODS:
            command = [sys.executable, __file__, "--measure", place, method]
            command += ["--threads", str(options.threads)]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            peak, seconds = map(float, answer.split())
            worst = max(worst, peak / 1e6)
            print(
                f"{method}: base and 3 models of {options.megabytes} MB, threads: "
                f"{options.threads}, peak: {peak / 1e6:.0f} MB, {seconds:.1f} s"
            )
    print(f"worst: {worst:.0f} MB above interpreter and torch; limit: {options.limit} MB")
    return int(worst > options.limit)


if __name__ == "__main__":
    sys.exit(main())
