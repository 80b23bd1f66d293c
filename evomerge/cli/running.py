"""What ``evomerge run`` and the demo do: run the loop under a display, then export the front."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from evomerge.cli.display import watching
from evomerge.cli.mirroring import Mirroring
from evomerge.cli.output import emit, escape, say
from evomerge.cli.preparing import prepare
from evomerge.cli.progress import Progress
from evomerge.cli.study import flat, say_outcome
from evomerge.errors import EvomergeError, InfeasibleError, StoppedError
from evomerge.interfaces import Sampler, SearchProblem
from evomerge.recipe.campaign import Campaign
from evomerge.report.summary import front_rows
from evomerge.study import loop
from evomerge.study.forking import as_begun
from evomerge.study.loop import Ending, RunResult
from evomerge.study.study import Study

FORCED = 130


def carry_out(
    campaign: Campaign,
    *,
    workers: int | None = None,
    trials: int | None = None,
    control: bool = False,
    fork: bool = False,
    as_json: bool = False,
) -> int:
    """Run a campaign to its end, or until it is stopped; then export and list the front.

    Returns:
        The exit code.
    """
    command = f"evomerge run {shlex.quote(str(campaign.path))}"
    prepare(campaign)
    with Study.open(campaign, fork=fork) as study:
        try:
            result = search(study, workers=workers, trials=trials, control=control)
        except EvomergeError as error:
            error.kept = error.kept or "everything told is kept"
            error.command = error.command or command
            raise
        code, further = exit_code(result), more(study, trials)
        if result.ending in (Ending.FINISHED, Ending.OUT_OF_TIME):
            finish(study, result, as_json=as_json)
    match result.ending:
        case Ending.FINISHED if result.feasible:
            say(f"done; to go on with more trials: {command} --trials {further}")
        case Ending.FINISHED:
            say("done, but no trial meets the limits; shown are those that miss them least")
        case Ending.OUT_OF_TIME:
            say(f"the budget of hours is used up; raise it in the file, then: {command}")
        case Ending.OUT_OF_SPEND:
            say(f"{result.why}; everything told is kept; raise it in the file, then: {command}")
        case _:
            say(f"stopped ({result.why}); everything told is kept; next: {command}")
    return code


def search(
    study: Study, *, workers: int | None, trials: int | None, control: bool = False
) -> RunResult:
    """Run the loop under the live display."""
    asked = study.spend().trials
    limit = trials if trials is not None else study.limit
    alone = "" if study.charter.parents else ", models not measured by themselves"
    say(
        f"study {study.folder}: {len(study.recipe.space)} parameters, {len(study.goals)} goals, "
        f"sampler {study.campaign.sampler.name}{alone}"
        + (f"; resuming after {asked} trials" if asked else "; new")
    )
    url = study.campaign.mirror_url()
    with watching(Progress(study, limit)) as watcher:
        if url is None:
            return loop.run(
                study, workers=workers, trials=trials, control=control, on_event=watcher
            )
        mirroring = Mirroring(study, url, watcher)
        result = loop.run(
            study, workers=workers, trials=trials, control=control, on_event=mirroring
        )
        mirroring.copy()
        return result


def _planned(campaign: Campaign, problem: SearchProblem) -> str:
    """What would search; every number may be pinned."""
    from evomerge.search.registry import make_sampler

    if not len(problem.space):
        return "none: every number is pinned"
    return described(make_sampler(campaign.sampler.name, problem, campaign.sampler.options))


def described(sampler: Sampler) -> str:
    """The sampler's name; of ``auto`` also what it picked, and why."""
    from evomerge.search.auto import Auto, choose

    if not isinstance(sampler, Auto):
        return sampler.name
    picked, why = choose(sampler.problem)
    return f"{sampler.name}: {picked} ({why})"


def finish(study: Study, result: RunResult, *, as_json: bool) -> None:
    """Export what the campaign file wants exported, and list the Pareto set."""
    for number, reason in result.unconfirmed.items():
        say(f"trial {number} could not be measured on the held-out items: {escape(reason)}")
    rows = front_rows(study)
    emit(rows if as_json else flat(rows), as_json=as_json)
    say_outcome(study)
    if study.campaign.export is not None and rows:
        from evomerge.export.front import export_front

        for folder in export_front(study, study.campaign.export.to):
            say(f"exported {folder}")


def exit_code(result: RunResult) -> int:
    """0 done, 6 nothing meets the limits, 75 stopped cleanly, 130 forced."""
    match result.ending:
        case Ending.FINISHED:
            return 0 if result.feasible else InfeasibleError.exit_code
        case Ending.FORCED:
            return FORCED
        case _:
            return StoppedError.exit_code


def more(study: Study, trials: int | None) -> int:
    """Half as many trials again as were wanted, or as there are if these are more."""
    limit = max(trials or study.limit or 0, study.spend().trials)
    return limit + max(1, limit // 2)


def plan_of(campaign: Campaign, *, workers: int | None, trials: int | None) -> dict[str, Any]:
    """What a run would do, without doing it."""
    from evomerge.checkpoint.checkpoint import Checkpoint

    with Checkpoint.open(campaign.recipe.base) as base:
        bound = campaign.recipe.bind(base.tensors)
        size = sum(entry.size for entry in base.tensors.values())
    parents = as_begun(campaign).measures_parents
    limit = trials or campaign.budget.trials
    problem = SearchProblem(bound.space, len(campaign.goals), limit, campaign.seed)
    return {
        "study": str(campaign.study),
        "exists": _exists(campaign.study),
        "base": str(campaign.recipe.base),
        "models": list(campaign.recipe.models),
        "method": campaign.recipe.method,
        "groups": {group: len(names) for group, names in bound.groups.items()},
        "parameters": len(bound.space),
        "sampler": _planned(campaign, problem),
        "measured first": [r.origin for r in bound.references(parents=parents)],
        "trials": limit,
        "hours": campaign.budget.hours,
        **_spend(campaign),
        "workers": workers or campaign.workers,
        "goals": [f"{goal.metric} ({goal.direction})" for goal in campaign.goals],
        "checkpoint bytes": size,
        "export": str(campaign.export.to) if campaign.export else None,
    }


def _spend(campaign: Campaign) -> dict[str, Any]:
    """The budget for endpoints, where there is one."""
    budget = campaign.budget
    limits = {"requests": budget.requests, "tokens": budget.tokens, "money": budget.money}
    return limits if budget.limits_spend else {}


def _exists(folder: Path) -> bool:
    from evomerge.study.folder import holds_study

    return holds_study(folder)
