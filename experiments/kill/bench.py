"""Campaigns made alike, and judged alike."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaigns import Mode, write_campaign
from lives import Life, content, problems


@dataclass(frozen=True)
class Bench:
    """Where campaigns are made, all alike."""

    root: Path
    mode: Mode
    trials: int
    sampler: str

    def new(self, name: str, mode: Mode | None = None) -> Life:
        folder = self.root / name
        campaign = write_campaign(
            folder, mode=mode or self.mode, trials=self.trials, sampler=self.sampler
        )
        return Life(campaign)

    def undisturbed(self, mode: Mode | None = None) -> tuple[dict[str, Any], float]:
        """What comes out of a campaign that is left alone, and how many seconds it takes."""
        life = self.new(f"undisturbed-{mode or self.mode}", mode)
        started = time.monotonic()
        life.start()
        if life.finish() != 0:
            raise SystemExit((life.campaign.parent / "coordinator.log").read_text())
        seconds = time.monotonic() - started
        life.check_orphans()
        return content(life.study), seconds


def concluded(life: Life, expected: dict[str, Any]) -> list[str]:
    """Let a campaign come to its end, and judge it."""
    while life.finish() == -signal.SIGKILL:  # a fault point; it is not set for the next life
        life.killed["coordinator"] += 1
        life.check_orphans()
        life.start()
    if life.finish() != 0:
        log = (life.campaign.parent / "coordinator.log").read_text()[-2000:]
        return [f"{life.campaign.parent.name}: ended with {life.finish()}: {log}"]
    life.check_orphans()
    found = [f"{life.campaign.parent.name}: {text}" for text in problems(life, expected)]
    kills = ", ".join(f"{count} {name}" for name, count in sorted(life.killed.items()))
    print(f"{life.campaign.parent.name}: killed {kills or 'nothing'}: {found or 'equal'}")
    return found
