"""The sampler's log: the same in the process that asked and in the one that comes after."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.interfaces import Asked, Observation
from evomerge.study.database import Database
from evomerge.study.folder import DATABASE
from evomerge.study.log import load_log
from evomerge.study.study import Study
from evomerge.trial import Outcome


def lines(events: list[Asked | Observation]) -> list[tuple[object, ...]]:
    """Events as words that compare."""
    return [
        ("asked", event.number, event.point.tolist(), event.own)
        if isinstance(event, Asked)
        else (
            "ended",
            event.number,
            None if event.losses is None else event.losses.tolist(),
            event.violation,
        )
        for event in events
    ]


def stored(study: Study) -> list[tuple[object, ...]]:
    database = Database(study.folder / DATABASE, mode="read")
    try:
        return lines(list(load_log(database, study.goals).events()))
    finally:
        database.close()


def remembered(study: Study) -> list[tuple[object, ...]]:
    log = study._asking._log
    return [] if log is None else lines(list(log.events()))


def test_ends_stand_before_the_ask_that_saw_them(campaign_file: Path) -> None:
    with Study.open(campaign_file) as study:
        study.ask(2)
        study.tell(1, {"a": 0.5, "b": 0.25})
        study.end(study.begin(0, "search", "w"), Outcome.FAILED, reason="why")
        study.ask()
        words = [line[:2] for line in stored(study)]
        assert words == [
            ("asked", 0),
            ("asked", 1),
            ("ended", 0),
            ("ended", 1),
            ("asked", 2),
        ]
        ended = [line[2:] for line in stored(study) if line[0] == "ended"]
        assert ended == [(None, None), ([-0.5, 0.25], 0)]


def test_references_are_not_the_samplers_own(campaign_file: Path) -> None:
    with Study.open(campaign_file) as study:
        study.ask(6)
        assert [line[3] for line in stored(study)] == [False] * 4 + [True] * 2


STEPS = st.lists(st.sampled_from(["ask", "next", "tell", "fail", "reopen"]), max_size=20)


@settings(max_examples=20)
@given(steps=STEPS)
def test_a_remembered_log_is_the_stored_one(campaign_file: Path, steps: list[str]) -> None:
    folder = Path(tempfile.mkdtemp(dir=campaign_file.parent))  # a new study for every example
    file = campaign_file.with_name(f"{folder.name}.yaml")
    file.write_text(campaign_file.read_text().replace("runs/demo", f"{folder.name}/demo"))
    study = Study.open(file)
    try:
        for number, step in enumerate(steps):
            waiting = [t.number for t in study.trials() if t.state == "pending"]
            if step == "ask":
                study.ask(1 + number % 2)
            elif step == "next":
                study.ask_next()
            elif step == "reopen":
                study.close()
                study = Study.open(file)
            elif waiting and step == "tell":
                study.tell(waiting[-1], {"a": number / 20, "b": 0.5})
            elif waiting:
                study.end(study.begin(waiting[0], "search", "w"), Outcome.FAILED, reason="why")
        study.ask()
        assert remembered(study) == stored(study)
    finally:
        study.close()


def test_the_asks_after_a_reopening_are_what_they_would_have_been(campaign_file: Path) -> None:
    def run(file: Path, reopen: bool) -> list[dict[str, float]]:
        study = Study.open(file)
        asked = []
        while (candidate := study.ask_next()) is not None:
            asked.append(dict(candidate.parameters))
            study.tell(candidate, {"a": len(asked) / 7, "b": 1 / len(asked)})
            if reopen:
                study.close()
                study = Study.open(file)
        study.close()
        return asked

    other = campaign_file.with_name("other.yaml")
    other.write_text(campaign_file.read_text().replace("runs/demo", "runs/other"))
    assert run(campaign_file, reopen=False) == run(other, reopen=True)


def test_asks_do_not_depend_on_when_trials_end(campaign_file: Path) -> None:
    def run(file: Path, hold_back: int) -> list[tuple[dict[str, float], int | None]]:
        with Study.open(file) as study:
            under_way: list[int] = []
            while True:
                candidate = study.ask_next()
                if candidate is not None:
                    under_way.append(candidate.number)
                if candidate is None or len(under_way) > hold_back:
                    if not under_way:
                        break
                    number = under_way.pop(-1 if hold_back else 0)
                    study.tell(number, {"a": number / 7, "b": 1 / (1 + number)})
            trials = study.trials()
            return [(dict(t.candidate.parameters), t.visible_from) for t in trials]

    other = campaign_file.with_name("other.yaml")
    other.write_text(campaign_file.read_text().replace("runs/demo", "runs/other"))
    assert run(campaign_file, 0) == run(other, 2)
