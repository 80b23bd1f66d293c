"""What the killed processes do: ``python roles.py ROLE CAMPAIGN``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from evomerge.study.study import Study
from evomerge.trial import TrialState

WORKERS = 2


def coordinate(campaign: Path) -> None:
    """The coordinator, in a process of its own; acknowledges every stored end in a file."""
    from evomerge.study.events import AttemptEnded, Event
    from evomerge.study.loop import run

    with (campaign.parent / "acknowledged.jsonl").open("a") as file:

        def acknowledge(event: Event) -> None:
            if isinstance(event, AttemptEnded):
                values = {split: event.trial.values(split) for split in event.splits}
                line = {"trial": event.trial.number, "outcome": event.outcome, "values": values}
                file.write(json.dumps(line) + "\n")
                file.flush()

        with Study.open(campaign) as study:
            run(study, workers=WORKERS, on_event=acknowledge)


def by_hand(campaign: Path) -> None:
    """Asks and tells by hand, four times, going on where an earlier life stopped."""
    with Study.open(campaign) as study:
        while len(study.trials()) < 4 or study.trials(state=TrialState.PENDING):
            waiting = study.trials(state=TrialState.PENDING)
            candidate = waiting[0].candidate if waiting else study.ask()[0]
            value = sum(candidate.parameters.values())
            study.tell(candidate, {"waves": value, "bowl": -value})


def mend(campaign: Path) -> None:
    """Repairs the study that lost its database."""
    from evomerge.study.repair import repair

    repair(campaign.parent / "study")


def replace(campaign: Path) -> None:
    """Writes a folder over an older one, as ``export --force`` does."""
    from evomerge.checkpoint.files import staged_folder, sweep

    target = campaign.parent / "written"
    sweep(campaign.parent)
    if not target.exists():
        with staged_folder(target) as folder:
            (folder / "content").write_text("old")
    with staged_folder(target, replace=True) as folder:
        (folder / "content").write_text("new")


ROLES = {"coordinate": coordinate, "by_hand": by_hand, "mend": mend, "replace": replace}


if __name__ == "__main__":
    ROLES[sys.argv[1]](Path(sys.argv[2]))
