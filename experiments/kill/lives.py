"""A campaign under test: its lives and deaths, and what must be true of it in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from roles import WORKERS

from evomerge import faults
from evomerge.study.study import Study
from evomerge.study.verify import verify
from evomerge.study.workers.messages import decode
from evomerge.study.workers.processes import MARKER, marker_of
from evomerge.trial import SPLITS, Outcome

ROLES = Path(__file__).resolve().with_name("roles.py")
ROOT = ROLES.parents[2]
PATIENCE = 120.0  # seconds for one life of a coordinator
ENDS_WITHIN = 10.0  # seconds in which everything that a dead coordinator started must be gone


@dataclass
class Life:
    """A campaign under test: its folder, and the process that works on it now."""

    campaign: Path
    process: subprocess.Popen[bytes] | None = None
    killed: Counter[str] = field(default_factory=Counter)

    @property
    def study(self) -> Path:
        return self.campaign.parent / "study"

    def start(self, role: str = "coordinate", fault: str | None = None) -> None:
        environment = os.environ | {
            "EVOMERGE_KILL_CALLS": str(self.campaign.parent / "calls.txt"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        if fault is not None:
            environment[faults.VARIABLE] = fault
        with (self.campaign.parent / "coordinator.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROLES), role, str(self.campaign)],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def finish(self) -> int:
        """Wait for the end by itself; the exit status."""
        assert self.process is not None
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill_coordinator()
            raise SystemExit(f"{self.campaign}: hangs; see coordinator.log there") from None

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill_coordinator(self, *, wait: bool = True) -> None:
        """Kill the coordinator, and see whether all that it started ends, or do not wait."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.killed["coordinator"] += 1
        if wait:
            self.check_orphans()

    def kill_worker(self, choice: float) -> bool:
        """Kill the worker process, guard or child at `choice` in [0, 1); whether there was one."""
        family = started_processes(self.study)
        if not family:
            return False
        crashes = self.crashes()
        family[int(choice * len(family))].kill()
        self.killed["worker"] += 1
        deadline = time.monotonic() + 2.0
        while self.runs() and self.crashes() == crashes and time.monotonic() < deadline:
            time.sleep(0.05)
        return True

    def attempts(self) -> list[Any]:
        if not (self.study / "study.db").exists():
            return []
        try:
            with Study.read(self.study) as study:
                return study.attempts()
        except Exception:  # being created this very moment
            return []

    def crashes(self) -> Counter[int]:
        """Killed workers by trial."""
        return Counter(a.trial for a in self.attempts() if a.outcome is Outcome.CRASHED)

    def check_orphans(self) -> None:
        deadline = time.monotonic() + ENDS_WITHIN
        while left := started_processes(self.study):
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.campaign}: left running: {left}")
            time.sleep(0.02)


def started_processes(study: Path) -> list[psutil.Process]:
    """Everything alive that the study's coordinators have started, guards and all."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(MARKER, "").startswith(marker_of(study))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def content(place: Path) -> dict[str, Any]:
    """All of a study that must not depend on what was killed."""
    with Study.read(place) as study:
        trials = study.trials()
        metrics = [goal.metric for goal in study.goals]
        reference = study.reference_point
        return {
            "asks": [
                (
                    t.number,
                    t.candidate.origin,
                    t.candidate.method,
                    dict(t.candidate.parameters),
                    None if t.candidate.point is None else t.candidate.point.tolist(),
                    t.visible_from,
                )
                for t in trials
            ],
            "states": [(t.state, t.reason) for t in trials],
            "scores": {
                (t.number, split, metric): tuple(study.scores(t.number, split, metric).items)
                for t in trials
                for split in t.results
                for metric in metrics
            },
            "fronts": {split: [t.number for t in study.front(split)] for split in SPLITS},
            "hypervolumes": {split: study.hypervolume(split) for split in SPLITS},
            "reference point": None if reference is None else reference.tolist(),
            "measured": sum(a.outcome is Outcome.SUCCEEDED for a in study.attempts()),
        }


def problems(life: Life, expected: dict[str, Any]) -> list[str]:
    """How a campaign that was killed differs from the one that was not."""
    got = content(life.study)
    wrong = [f"{name} differ" for name in expected if got[name] != expected[name]]
    wrong += lost_acknowledgements(life)
    wrong += [f"{finding}" for finding in verify(life.study)]
    repeated = len(life.attempts()) - expected["measured"]
    allowed = life.killed["worker"] + WORKERS * life.killed["coordinator"]
    if repeated > allowed:
        wrong.append(f"{repeated} evaluations repeated; {allowed} were in flight at most")
    wrong += torn_files(life.study)
    return wrong


def lost_acknowledgements(life: Life) -> list[str]:
    """Ends that the coordinator reported as stored, and that the study does not hold."""
    file = life.campaign.parent / "acknowledged.jsonl"
    lines = file.read_text().split("\n") if file.exists() else []
    acknowledged = [json.loads(line) for line in lines[:-1]]  # the last may be torn by the kill
    with Study.read(life.study) as study:
        trials = study.trials()
    return [
        f"trial {a['trial']} on {split}: acknowledged {values}"
        for a in acknowledged
        if a["outcome"] == Outcome.SUCCEEDED
        for split, values in a["values"].items()
        if trials[a["trial"]].values(split) != values
    ]


def torn_files(study: Path) -> list[str]:
    """Files under their final names that cannot be read whole."""
    wrong = [f"left behind: {path}" for path in study.glob("scratch/*")]
    for path in study.glob("attempts/*/result.json"):
        try:
            decode(path.read_bytes())
        except Exception as error:
            wrong.append(f"{path}: {error}")
    for path in study.glob("*.json"):
        json.loads(path.read_text())
    return wrong
