"""A study against its own invariants; reads everything, changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from evomerge.errors import StudyDamagedError, StudyError, StudyMismatchError
from evomerge.study import folder, opening
from evomerge.study.charter import Charter
from evomerge.study.database import Database
from evomerge.study.recovery import read_answer
from evomerge.study.rows import load_scores, load_trials, unpacked
from evomerge.study.schema import RACES
from evomerge.study.stages import load_stages
from evomerge.trial import Evaluation, Scores, Split, Trial, TrialState


@dataclass(frozen=True)
class Finding:
    """Something that is not as it must be.

    Attributes:
        severity: an ``error`` makes results doubtful, a ``warning`` does not.
    """

    severity: Literal["error", "warning"]
    text: str

    def row(self) -> dict[str, str]:
        """For listings."""
        return asdict(self)


def verify(place: Path) -> list[Finding]:
    """What is wrong with the study in a folder; empty if nothing is."""
    findings = [Finding("error", text) for text in _of_database(place / folder.DATABASE, place)]
    backup = place / folder.BACKUP
    if not backup.exists():
        findings.append(Finding("warning", f"{folder.BACKUP} is missing"))
    else:
        findings += [
            Finding("warning", f"{folder.BACKUP}: {text}") for text in file_problems(backup)
        ]
    return findings


def file_problems(path: Path) -> list[str]:
    """What keeps a file from being a whole study database.

    Raises:
        StudyMismatchError: if a newer evomerge made it.
    """
    try:
        with closing(Database(path, mode="read")) as database:
            found = database.problems()
            if not found:
                opening.load_charter(database)
            return found
    except StudyMismatchError:
        raise  # a newer evomerge's study is whole for all that this one knows
    except StudyError as error:
        return [error.cause]


def _of_database(path: Path, place: Path) -> list[str]:
    if not path.exists():
        return [f"{folder.DATABASE} is missing"]
    found = file_problems(path)
    if found:
        return found
    with closing(Database(path, mode="read")) as database, database.snapshot():
        charter = opening.load_charter(database)
        found = list(_invariants(database, charter))
        return found or list(_of_result_files(database, place))


def _invariants(database: Database, charter: Charter) -> Iterator[str]:
    try:
        trials = load_trials(database)
    except StudyDamagedError as error:
        yield error.cause
        return
    numbers = [trial.number for trial in trials]
    if numbers != list(range(len(numbers))):
        yield "trial numbers have gaps"
    count = database.row("SELECT count(*) FROM candidates")
    if count is None or count[0] != len(trials):
        yield "a candidate has no state"
    for trial in trials:
        yield from _of_trial(database, charter, trial)


def _of_trial(database: Database, charter: Charter, trial: Trial) -> Iterator[str]:
    name = f"trial {trial.number}"
    if not np.isfinite(list(trial.candidate.parameters.values())).all():
        yield f"{name} has parameters that are not finite"
    if (trial.state is TrialState.DONE) != ("search" in trial.results):
        yield f"{name} is {trial.state}, and its search results do not say so"
    if trial.state is TrialState.FAILED and not trial.reason:
        yield f"{name} failed without a reason"
    if trial.visible_from is not None and trial.visible_from <= trial.number:
        yield f"{name} was visible to ask {trial.visible_from}, before it was asked itself"
    for split, results in trial.results.items():
        if set(results) != set(charter.metrics):
            yield f"{name} has {split} results of {sorted(results)}"
        try:
            scores = load_scores(database, trial.number, split)
        except StudyDamagedError as error:
            yield f"{name}: {error.cause}"
            continue
        if split == "search" and trial.chance is not None:
            yield from _of_stopped(database, trial)
            continue
        for metric, value in results.items():
            if metric not in scores:
                yield f"{name} has no {split} scores of {metric}"
            elif not _agrees(scores[metric], value.mean, value.items):
                yield f"{name}: the {split} scores of {metric} do not give its value"


def _of_stopped(database: Database, trial: Trial) -> Iterator[str]:
    stages = load_stages(database, trial.number)
    for metric, value in trial.results["search"].items():
        found = [stage for stage in stages.get(metric, []) if stage.scores is not None]
        if sum(len(stage.places) for stage in found) != value.items:
            yield f"trial {trial.number} was stopped, and its stages of {metric} do not say so"


def _agrees(scores: Scores, mean: float, items: int) -> bool:
    return len(scores.items) == items and items > 0 and scores.mean == mean


def _of_result_files(database: Database, place: Path) -> Iterator[str]:
    """Results on the disk that the database does not have, or has otherwise."""
    known = {row[0]: row[1] for row in database.rows("SELECT id, trial FROM attempts")}
    for number in attempt_numbers(place):
        answer = read_answer(place, number)
        if answer is None or not answer.evaluations:
            continue
        if number not in known and not _is_listed(database, number):
            yield f"attempt {number} has a result that the database does not know"
        elif known.get(number) == answer.trial and not _same(database, number, answer.evaluations):
            yield f"attempt {number}: its result file and the database differ"


def _is_listed(database: Database, number: int) -> bool:
    """Whether a repair has found it: it waits to be told, or was told as another attempt."""
    found = database.row(
        "SELECT 1 FROM salvage WHERE attempt = ? "
        "UNION SELECT 1 FROM events WHERE kind = 'salvaged' AND attempt = ?",
        [number, number],
    )
    return found is not None


def _same(database: Database, number: int, evaluations: Mapping[Split, Evaluation]) -> bool:
    rows = database.rows(
        "SELECT results.split, results.metric, scores.items FROM results JOIN scores "
        "USING (trial, split, metric) WHERE results.attempt = ?",
        [number],
    )
    if database.version >= RACES:
        rows += database.rows(
            "SELECT 'search', metric, items FROM stages WHERE attempt = ?", [number]
        )
    return all(
        split in evaluations
        and metric in evaluations[split].scores
        and tuple(evaluations[split].scores[metric].items) == tuple(unpacked(blob).tolist())
        for split, metric, blob in rows
    )


def attempt_numbers(place: Path) -> list[int]:
    """Numbers of the attempts that have a folder, ascending."""
    attempts = place / folder.ATTEMPTS
    if not attempts.is_dir():
        return []
    return sorted(int(path.name) for path in attempts.iterdir() if path.name.isdecimal())
