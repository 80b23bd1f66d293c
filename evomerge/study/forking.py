"""Forks: a new study beside the old one, for a campaign that was edited in earnest.

The old study is only read. Its trials come along where their values still mean the same: same
models, method, groups, items and objectives. They are observations of the new study, not proposals
of its sampler, and do not count to its budget. Later commands on the same campaign file find the
fork by its identity.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import StudyError, StudyMismatchError, UsageError
from evomerge.study import filesystem, folder, journal, opening
from evomerge.study.charter import Charter
from evomerge.study.database import Database
from evomerge.study.inputs import CACHE, CODE, Input, changed_inputs, load_inputs, read_inputs
from evomerge.study.lock import Lock
from evomerge.study.opening import LOGGER, Held
from evomerge.study.references import model_of
from evomerge.study.rows import load_scores, load_trials, store_candidate, store_scores
from evomerge.study.telling import Telling
from evomerge.trial import SPLITS, Candidate, Trial, TrialState

if TYPE_CHECKING:
    from evomerge.recipe.campaign import Campaign
    from evomerge.recipe.recipe import BoundRecipe

_MEANING = ("models", "method", "groups", "items", "dtype", "loader")
"""Parts of the identity that decide what a trial's parameters and values mean."""

_ENDED = (TrialState.DONE, TrialState.FAILED)


def hold(campaign: Campaign, place: Path, *, fork: bool, wait_seconds: float) -> Held:
    """As `opening.hold`; where the study is another campaign's, this campaign's fork of it.

    Args:
        fork: make that fork if there is none.
    """
    try:
        return opening.hold(campaign, place, wait_seconds=wait_seconds)
    except StudyMismatchError:
        for sibling in forks_of(place):
            try:
                return opening.hold(campaign, sibling, wait_seconds=wait_seconds)
            except StudyMismatchError:
                continue
        if not fork:
            raise
    _make(campaign, place)
    return hold(campaign, place, fork=False, wait_seconds=wait_seconds)


def find(campaign: Campaign) -> Path:
    """The folder of this campaign's study, or of its fork; the study's own if neither fits."""
    identity = opening.plain(campaign.identity())
    for place in (campaign.study, *forks_of(campaign.study)):
        charter = _charter_of(place)
        if charter is not None and charter.identity == identity:
            return place
    return campaign.study


def as_begun(campaign: Campaign) -> Campaign:
    """The campaign, with `parents` as its study has it; a campaign that has none as it is."""
    charter = _charter_of(find(campaign))
    if charter is None or charter.identity != opening.plain(campaign.identity()):
        return campaign
    return replace(campaign, parents="measured" if charter.parents else "unmeasured")


def forks_of(place: Path) -> Iterator[Path]:
    """Folders of the study's forks, the latest first."""
    count = 1
    while _fork_name(place, count).exists():
        count += 1
    for number in range(count - 1, 0, -1):
        if _charter_of(_fork_name(place, number)) is not None:
            yield _fork_name(place, number)


def _fork_name(place: Path, number: int) -> Path:
    return place.with_name(f"{place.stem}.fork-{number}{place.suffix}")


def _charter_of(place: Path) -> Charter | None:
    if not folder.holds_study(place):
        return None
    try:
        with closing(Database(place / folder.DATABASE, mode="read")) as database:
            return opening.load_charter(database)
    except StudyError:
        return None


def _make(campaign: Campaign, place: Path) -> None:
    number = 1
    while _charter_of(_fork_name(place, number)) is not None:
        number += 1
    target = _fork_name(place, number)
    filesystem.make_folder(target)
    with ExitStack() as stack:
        stack.callback(Lock(target).release)
        if not (target / CACHE).exists() and (place / CACHE).exists():
            shutil.copy2(place / CACHE, target / CACHE)
        old = stack.enter_context(closing(Database(place / folder.DATABASE, mode="read")))
        new = stack.enter_context(closing(Database(target / folder.DATABASE, mode="write")))
        _fill(campaign, place, target, old, new)
        new.copy_to(target / folder.BACKUP)


def _fill(campaign: Campaign, place: Path, target: Path, old: Database, new: Database) -> None:
    inputs = read_inputs(campaign, target)
    fresh = opening.new_charter(campaign, target)
    with old.snapshot():
        before = opening.load_charter(old)
        reasons = obstacles(before, fresh, load_inputs(old), inputs)
        ended = [t for t in load_trials(old) if t.state in _ENDED and t.chance is None]
        trials = [] if reasons else ended
        bound = opening.bind(campaign)
        plan = _carried(bound, trials, parents=fresh.parents)
        charter = replace(
            fresh, carried=len(plan) - fresh.references, forked_from=str(place.resolve())
        )
        anchors = opening.anchors(bound, parents=fresh.parents, trials=charter.planned)
        charter = replace(charter, anchors=anchors)
        with new.transaction("create"):
            opening.store_new(new, campaign, charter, inputs)
            _copy(old, new, charter, plan)
            journal.write(new, "forked", source=str(place), carried=len(plan), reasons=reasons)
            Telling(new, charter, session=0).settle_reference()
    matched = sum(step.trial is not None for step in plan)
    LOGGER.warning("forked into %s with %d of %s's trials", target, matched, place)
    for reason in reasons:
        LOGGER.warning("no trial was carried over: %s", reason)


def obstacles(
    old: Charter, new: Charter, old_inputs: Sequence[Input], new_inputs: Sequence[Input]
) -> list[str]:
    """Why the old trials mean nothing to the new study; empty if they do."""
    reasons = [
        f"{key} differs" for key in _MEANING if old.identity.get(key) != new.identity.get(key)
    ]
    changed = changed_inputs(old_inputs, new_inputs)
    reasons += [line for line in changed if not line.startswith(CODE)]
    before, after = _objectives(old), _objectives(new)
    for metric in new.metrics:
        if metric not in before:
            reasons.append(f"the old study has not measured {metric}")
        elif before[metric] != after[metric] or old.counts[metric] != new.counts[metric]:
            reasons.append(f"the objective of {metric} differs")
    return reasons


def _objectives(charter: Charter) -> dict[str, Any]:
    return {goal[0]: goal[4] for goal in charter.identity["goals"]}


@dataclass(frozen=True)
class _Step:
    """A first trial of the fork, and the old trial that it repeats, if one does."""

    candidate: Candidate
    trial: Trial | None


def _carried(recipe: BoundRecipe, trials: Sequence[Trial], *, parents: bool) -> list[_Step]:
    """The references, then whatever else lies in the new space, and parents; numbered from 0."""
    by_content = {_content(t.candidate.method, t.candidate.parameters): t for t in trials}
    steps: list[_Step] = []
    for origin, method, parameters in recipe.references(parents=parents):
        point = recipe.point_of(parameters, method=method)
        candidate = Candidate(len(steps), origin, method, dict(parameters), point)
        steps.append(_Step(candidate, by_content.pop(_content(method, parameters), None)))
    for trial in by_content.values():
        candidate = trial.candidate
        try:
            point = recipe.point_of(candidate.parameters, method=candidate.method)
        except UsageError:
            continue
        if point is not None or model_of(candidate.origin):
            origin = f"{candidate.origin}, trial {trial.number} of the fork's source"
            moved = replace(candidate, number=len(steps), origin=origin, point=point)
            steps.append(_Step(moved, trial))
    return steps


def _content(method: str, parameters: Mapping[str, float]) -> tuple[Any, ...]:
    return method, tuple(sorted(parameters.items()))


def _copy(old: Database, new: Database, charter: Charter, steps: Sequence[_Step]) -> None:
    for step in steps:
        number = step.candidate.number
        store_candidate(new, step.candidate, own=False, note={})
        journal.write(new, "asked", trial=number)
        if step.trial is None:
            continue
        new.execute(
            "UPDATE trials SET state = ?, reason = ? WHERE number = ?",
            [step.trial.state, step.trial.reason, number],
        )
        for split in SPLITS:
            scores = load_scores(old, step.trial.number, split)
            kept = {metric: scores[metric] for metric in charter.metrics if metric in scores}
            store_scores(new, number, split, kept, attempt=None)
