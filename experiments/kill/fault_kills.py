"""Each fault point that the sources name, reached once."""

from __future__ import annotations

import re
import signal
import sqlite3
import time
from typing import Any

from bench import Bench, concluded
from campaigns import Mode
from lives import ROOT, Life, content
from roles import WORKERS


def fault_points() -> list[str]:
    """Every point that the sources name, literally or by its transaction."""
    names: set[str] = set()
    for path in [*(ROOT / "evomerge").rglob("*.py"), *(ROOT / "objectives").rglob("*.py")]:
        text = path.read_text("utf-8")
        names |= set(re.findall(r"\breach\(\s*\"([\w.-]+)\"", text))
        for name in re.findall(r"\.transaction\(\s*\"(\w+)\"\)", text):
            names |= {f"study.{name}.before-commit", f"study.{name}.after-commit"}
    return sorted(names)


def mode_of(point: str, default: Mode) -> Mode:
    """The kind of campaign that reaches a point."""
    if point.startswith("study.costs."):
        return "endpoint"
    return "folder" if point.startswith("checkpoint.") else default


def fault_kills(bench: Bench) -> list[str]:
    """Reach each fault point once, in the first life that comes by it."""
    modes: tuple[Mode, ...] = ("folder", "endpoint")
    expected = {mode: bench.undisturbed(mode)[0] for mode in modes}
    again = bench.root / f"undisturbed-{bench.mode}" / "study"
    expected[bench.mode] = content(again) if again.exists() else bench.undisturbed()[0]
    hand = bench.new("hand")
    hand.start("by_hand")
    hand.finish()
    wrong: list[str] = []
    for point in fault_points():
        mode = mode_of(point, bench.mode)
        if point == "checkpoint.between-renames":
            wrong += replaced(bench, point)
        elif point.startswith(("study.tell.",)):
            wrong += told(bench, point, content(hand.study))
        elif point.startswith(("study.repair.", "study.salvage.")):
            wrong += repaired(bench, point, expected[bench.mode])
        elif point.startswith("study.migrate."):
            wrong += migrated(bench, point, expected[bench.mode])
        else:
            late = point.startswith("study.resume.")
            wrong += reached(bench, point, mode, expected[mode], late=late)
    return wrong


def reached(
    bench: Bench, point: str, mode: Mode, expected: dict[str, Any], *, late: bool
) -> list[str]:
    """Die at a point of the loop or of a worker."""
    life = bench.new(point, mode)
    if late:
        halfway(life)
    life.start(fault=point)
    hit = life.finish() == -signal.SIGKILL
    crashed = sum(life.crashes().values())
    life.killed["worker"] += crashed + (WORKERS if point.startswith("worker.") else 0)
    if not hit and not crashed and not point.startswith("worker.after"):
        return [f"{point}: never reached"]
    return concluded(life, expected)


def halfway(life: Life) -> None:
    """Run until a few evaluations are told, and kill."""
    life.start()
    file = life.campaign.parent / "acknowledged.jsonl"
    while life.runs() and not (file.exists() and file.read_text().count("\n") >= 6):
        time.sleep(0.01)
    life.kill_coordinator()


def told(bench: Bench, point: str, expected: dict[str, Any]) -> list[str]:
    """Die while telling by hand."""
    life = bench.new(point)
    life.start("by_hand", fault=point)
    if life.finish() != -signal.SIGKILL:
        return [f"{point}: never reached"]
    life.start("by_hand")
    life.finish()
    equal = content(life.study) == expected
    print(f"{point}: killed by hand: {'equal' if equal else 'differs'}")
    return [] if equal else [f"{point}: what was told by hand differs"]


def repaired(bench: Bench, point: str, expected: dict[str, Any]) -> list[str]:
    """Lose the database halfway, die while it is repaired or told again, repair, go on."""
    life = bench.new(point)
    halfway(life)
    life.killed["coordinator"] += 1  # ends that only the lost database knew
    for path in life.study.glob("study.db*"):
        path.unlink()
    life.start("mend", fault=point)
    hit = life.finish() == -signal.SIGKILL
    life.start("mend")
    life.finish()
    life.start(fault=None if hit else point)
    if not hit and life.finish() != -signal.SIGKILL:
        return [f"{point}: never reached"]
    return concluded(life, expected)


def migrated(bench: Bench, point: str, expected: dict[str, Any]) -> list[str]:
    """Die while the tables of an earlier version are brought up to date."""
    life = bench.new(point)
    halfway(life)
    database = sqlite3.connect(life.study / "study.db")
    database.executescript("DROP TABLE costs; PRAGMA user_version = 1")  # as the first version was
    database.close()
    life.start(fault=point)
    if life.finish() != -signal.SIGKILL:
        return [f"{point}: never reached"]
    return concluded(life, expected)


def replaced(bench: Bench, point: str) -> list[str]:
    """Die between setting the old folder aside and giving its name to the new one."""
    life = bench.new(point)
    life.start("replace", fault=point)
    if life.finish() != -signal.SIGKILL:
        return [f"{point}: never reached"]
    life.start("replace")
    life.finish()
    left = sorted(path.name for path in life.campaign.parent.glob(".written*"))
    text = (life.campaign.parent / "written" / "content").read_text()
    print(f"{point}: killed replace: {'whole' if text == 'new' and not left else text}")
    return [] if text == "new" and not left else [f"{point}: {text!r}, left {left}"]
