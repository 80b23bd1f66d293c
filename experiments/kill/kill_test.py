"""Kills a campaign at random instants and at every fault point, and compares what comes out.

    python experiments/kill/kill_test.py [--kills 100] [--mode coefficients] [--no-faults]

A driver starts the coordinator of a small real campaign as a process of its own, sends SIGKILL to
it or to one of its workers at random instants, starts it again, and so on, campaign after campaign
until all kills are spent. Then each fault point that the sources name is reached once. Every
campaign must in the end equal one that was left alone: the same asks in the same order, the same
scores to the bit, the same front; nothing that was acknowledged is lost; no evaluation is repeated
but those in flight; no file under its final name is torn; no process is left.

Prints one line per campaign, then what was measured; the exit code is 0 if all is equal.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench import Bench, concluded
from campaigns import write_models
from fault_kills import fault_kills

from evomerge.randomness import generator

MODES = ("coefficients", "folder", "model")


def random_kills(bench: Bench, kills: int, seed: int) -> list[str]:
    """Kill campaign after campaign at random instants; what was wrong in the end."""
    expected, seconds = bench.undisturbed()
    print(f"undisturbed: {seconds:.1f} s, {expected['measured']} evaluations")
    random = generator(seed, "kill")
    wrong: list[str] = []
    number = 0
    while kills > 0:
        life = bench.new(f"killed-{number}")
        life.start()
        while kills > 0 and life.process is not None:
            instant = time.monotonic() + random.uniform(0, seconds)
            while life.runs() and time.monotonic() < instant:
                time.sleep(0.005)
            if not life.runs():
                break
            poisoned = max(life.crashes().values(), default=0) >= 2  # a third is its quarantine
            if not poisoned and random.random() < 0.5 and life.kill_worker(random.random()):
                kills -= 1
            elif life.runs():
                life.kill_coordinator(wait=random.random() < 0.5)
                kills -= 1
                life.start()
        wrong += concluded(life, expected)
        number += 1
    return wrong


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--mode", choices=MODES, default=MODES[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--sampler", default="nsga2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--folder", type=Path, help="kept afterwards; must not exist")
    given = parser.parse_args()
    started = time.monotonic()
    root = given.folder or Path(tempfile.mkdtemp(prefix="evomerge-kill-"))
    write_models(root / "models")
    bench = Bench(root.resolve(), given.mode, given.trials, given.sampler)
    wrong = random_kills(bench, given.kills, given.seed) if given.kills else []
    if not given.no_faults:
        wrong += fault_kills(bench)
    for text in wrong:
        print(f"WRONG: {text}")
    print(f"{given.kills} random kills, {time.monotonic() - started:.0f} s: ", end="")
    print("all equal" if not wrong else f"{len(wrong)} problems; see {root}")
    if not wrong and given.folder is None:
        shutil.rmtree(root)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
