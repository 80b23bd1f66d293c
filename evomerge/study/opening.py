"""How a writer gets at a study: makes it, or checks that it is this campaign's and resumes it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge._version import __version__
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import CampaignError, StudyDamagedError, StudyError, StudyMismatchError
from evomerge.objectives.registry import make
from evomerge.recipe.campaign import Campaign
from evomerge.study import filesystem, folder, journal
from evomerge.study.charter import Charter
from evomerge.study.database import Database
from evomerge.study.differences import differences
from evomerge.study.inputs import (
    CODE,
    Input,
    changed_inputs,
    load_inputs,
    read_inputs,
    store_inputs,
)
from evomerge.study.lock import Lock
from evomerge.study.references import model_of
from evomerge.study.schema import MIGRATIONS, RACES, READABLE_BY
from evomerge.study.telling import store_reference

if TYPE_CHECKING:
    from evomerge.recipe.recipe import BoundRecipe

LOGGER = logging.getLogger("evomerge")

ANCHORS = 12
"""Trials that set the reference point of a study whose models are not measured by themselves."""


@dataclass(frozen=True)
class Held:
    """A study that this process may write.

    Attributes:
        session: counts the writers that the study has had, from 1.
    """

    folder: Path
    lock: Lock
    database: Database
    charter: Charter
    session: int

    def close(self) -> None:
        """Lets the next writer in."""
        self.database.close()
        self.lock.release()


def bind(campaign: Campaign) -> BoundRecipe:
    """The campaign's recipe for its base model, whose headers are read for it."""
    with Checkpoint.open(campaign.recipe.base) as base:
        return campaign.recipe.bind(base.tensors)


def hold(campaign: Campaign, place: Path, *, wait_seconds: float = 0.0) -> Held:
    """Takes the lock of the study in a folder, makes the study if there is none, checks it.

    Raises:
        StudyLockedError: if another process holds it.
        StudyMismatchError: if it is another campaign's, or its inputs have changed.
        StudyError, CampaignError, CheckpointError: as their names say.
    """
    folder.check_free(place)
    filesystem.make_folder(place)
    with ExitStack() as undo:
        lock = Lock(place, wait_seconds=wait_seconds)
        undo.callback(lock.release)
        folder.check_free(place)  # again: another process may have been at work until now
        database = Database(place / folder.DATABASE, mode="write")
        undo.callback(database.close)
        if database.version == 0:
            folder.check_remains(place)
            charter = _create(campaign, place, database)
        else:
            charter = _resume(campaign, place, database)
        session = _count_session(database)
        undo.pop_all()
        return Held(place, lock, database, charter, session)


def load_charter(database: Database) -> Charter:
    """The charter of an existing study; checks that this evomerge may use the file at all."""
    row = database.row("SELECT readable_by, charter FROM study")
    database.check_version(row[0] if row else None)
    try:
        return Charter.from_json(row[1] if row else "{}")
    except (ValueError, KeyError, TypeError) as error:
        raise StudyDamagedError(
            f"the study's charter cannot be read ({error!r})",
            place=str(database.path),
            command=f"evomerge verify {database.path.parent} --repair",
        ) from error


def store_new(
    database: Database, campaign: Campaign, charter: Charter, inputs: tuple[Input, ...]
) -> None:
    """Tables and first rows of a new study, inside the caller's transaction."""
    database.migrate()
    database.execute(
        "INSERT INTO study (id, readable_by, charter, campaign, source) VALUES (1, ?, ?, ?, ?)",
        [
            READABLE_BY if charter.racing is None else RACES,
            charter.to_json(),
            str(campaign.path),
            campaign.source_text,
        ],
    )
    store_inputs(database, inputs)
    journal.write(database, "created", version=__version__)
    given = charter.given_reference()
    if given is not None:
        store_reference(database, given)


def new_charter(campaign: Campaign, place: Path) -> Charter:
    """What a new study of this campaign fixes."""
    bound, parents = bind(campaign), campaign.measures_parents
    charter = Charter(
        name=place.name.removesuffix(".evomerge"),
        created=time.time(),
        version=__version__,
        identity=plain(campaign.identity()),
        goals=campaign.goals,
        seed=campaign.seed,
        lookahead=campaign.lookahead,
        trials=campaign.budget.trials,
        counts=item_counts(campaign),
        splits=campaign.items,
        references=len(bound.references(parents=parents)),
        anchors=anchors(bound, parents=parents, trials=campaign.budget.trials),
        racing=campaign.racing,
        parents=parents,
    )
    without = [metric for metric, count in charter.counts.items() if count is None]
    if charter.racing is not None and without:
        raise CampaignError(
            f"racing measures candidates on a part of their items, and {', '.join(without)} has "
            "none: its objective answers one number; leave racing out, or give it items",
            place=str(campaign.path),
        )
    for metric in charter.metrics:
        charter.items(metric, "search")  # enough items for the splits?
    return charter


def anchors(bound: BoundRecipe, *, parents: bool, trials: int | None) -> tuple[int, ...]:
    """The trials that set the reference point: base and parents, or else the first `ANCHORS`.

    The base alone would not do: few merges beat it in every goal, and no others would count.

    Args:
        parents: whether each model is measured by itself.
        trials: how many the study will have; None if only time limits it.
    """
    references = bound.references(parents=parents)
    if parents:
        found = enumerate(reference.origin for reference in references)
        return tuple(i for i, origin in found if origin == "base" or model_of(origin))
    most = ANCHORS if len(bound.space) else len(references)
    return tuple(range(min(ANCHORS, most, trials or ANCHORS)))


def item_counts(campaign: Campaign) -> dict[str, int | None]:
    """How many items each goal's objective has; runs none of the user's code."""
    return {
        metric: make(spec.type, spec.options, folder=campaign.folder).count
        for metric, spec in campaign.objectives.items()
    }


def plain(identity: Mapping[str, Any]) -> Any:
    """As JSON gives it back, so that stored and fresh ones compare equal."""
    return json.loads(json.dumps(identity, sort_keys=True))


def _create(campaign: Campaign, place: Path, database: Database) -> Charter:
    charter, inputs = new_charter(campaign, place), read_inputs(campaign, place)
    with database.transaction("create"):
        store_new(database, campaign, charter, inputs)
    database.copy_to(place / folder.BACKUP)
    return charter


def _resume(campaign: Campaign, place: Path, database: Database) -> Charter:
    charter = load_charter(database)
    _check_identity(campaign, charter, place)
    _migrate(database, place)
    inputs = read_inputs(campaign, place)
    _check_inputs(load_inputs(database), inputs, campaign.path, place)
    _check_counts(campaign, charter, place)
    with database.transaction("resume"):
        _note_changes(campaign, database, inputs)
    if not (place / folder.BACKUP).exists():  # its writer died before the first one
        database.copy_to(place / folder.BACKUP)
    return charter


def _migrate(database: Database, place: Path) -> None:
    """Bring the tables of an earlier evomerge up to date; its backup is of before that."""
    if database.version < len(MIGRATIONS):
        database.copy_to(place / folder.BACKUP)
        with database.transaction("migrate"):
            database.migrate()


def _check_identity(campaign: Campaign, charter: Charter, place: Path) -> None:
    changed = differences(_readable(charter.identity), _readable(plain(campaign.identity())))
    if changed:
        raise StudyMismatchError(
            "this study was made by a campaign that differs:\n  " + "\n  ".join(changed),
            place=str(place),
            kept="nothing was changed",
            command=f"evomerge run {campaign.path} --fork, or undo these edits",
        )


def _readable(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Goals by name and field instead of by position."""
    fields = ("direction", "limit", "reference", "objective")
    goals = {goal[0]: dict(zip(fields, goal[1:], strict=False)) for goal in identity["goals"]}
    order = [goal[0] for goal in identity["goals"]]
    return {**identity, "goals": goals, "order of goals": order}


def _check_inputs(
    old: tuple[Input, ...], new: tuple[Input, ...], campaign: Path, place: Path
) -> None:
    changed = [line for line in changed_inputs(old, new) if not line.startswith(CODE)]
    if changed:
        raise StudyMismatchError(
            "the study's inputs have changed since it began:\n  " + "\n  ".join(changed),
            place=str(place),
            kept="nothing was changed",
            command=f"evomerge run {campaign} --fork, or put the old files back",
        )


def _check_counts(campaign: Campaign, charter: Charter, place: Path) -> None:
    changed = differences(dict(charter.counts), item_counts(campaign))
    if changed:
        raise StudyMismatchError(
            "the number of items has changed:\n  " + "\n  ".join(changed), place=str(place)
        )


def _note_changes(campaign: Campaign, database: Database, inputs: tuple[Input, ...]) -> None:
    """Safe edits and changed code are remembered in the event log."""
    row = database.row("SELECT campaign, source FROM study")
    if row != (str(campaign.path), campaign.source_text):
        database.execute(
            "UPDATE study SET campaign = ?, source = ?", [str(campaign.path), campaign.source_text]
        )
        journal.write(database, "edited", source=campaign.source_text)
    changed = changed_inputs(load_inputs(database), inputs)
    if changed:
        store_inputs(database, inputs)
        journal.write(database, "code changed", files=changed)
        LOGGER.warning("%s; earlier trials were measured by the old code", "; ".join(changed))


def _count_session(database: Database) -> int:
    with database.transaction("open"):
        row = database.row("SELECT coalesce(max(session), 0) + 1 FROM spend")
        session = int(row[0]) if row else 1
        journal.spend(database, session, "seconds", 0.0)
        journal.write(database, "opened", session=session)
    return session


def located(wanted: Path | str | Campaign) -> tuple[Campaign, Path]:
    """A campaign and its study's folder; a folder's own campaign where a folder was given."""
    if isinstance(wanted, Campaign):
        return wanted, wanted.study
    path = Path(wanted).expanduser()
    if not path.is_dir():
        campaign = Campaign.load(path)
        return campaign, campaign.study
    folder.check_there(path, None)
    with closing(Database(path / folder.DATABASE, mode="read")) as database:
        load_charter(database)
        return stored_campaign(database, path), path


def stored_campaign(database: Database, place: Path) -> Campaign:
    """The campaign as its file says it now; where that is gone, as the study was last opened."""
    row = database.row("SELECT source, campaign FROM study")
    if row is None:
        raise StudyError("the study remembers no campaign", place=str(place))
    source, path = row
    return Campaign.load(path) if Path(path).is_file() else Campaign.parse(source, path)
