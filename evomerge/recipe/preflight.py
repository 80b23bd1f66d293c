"""What would go wrong, found before anything is evaluated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.models import Model, opened_in
from evomerge.errors import EvomergeError, StudyError
from evomerge.interfaces import Objective, Sampler, SearchProblem
from evomerge.merging.registry import method_named
from evomerge.recipe import families
from evomerge.recipe.campaign import FROM_PARENTS, Campaign
from evomerge.recipe.endpoint_checks import check_budget, check_mixing
from evomerge.recipe.findings import (
    Finding,
    failure,
    in_bytes,
    info,
    refusal,
    warning,
)
from evomerge.recipe.logit_fusion_checks import check_fusion
from evomerge.recipe.model_checks import check_models, merged_bytes
from evomerge.recipe.outline_checks import check_outlines, is_remote
from evomerge.recipe.recipe import BoundRecipe

SPARE = 1.2
"""Free memory and disk are wanted this many times over."""


def preflight(campaign: Campaign) -> list[Finding]:
    """All findings, errors first; every tensor is read once, nothing is written or evaluated."""
    with ExitStack() as stack:
        found = list(_all(campaign, stack))
    order = ("error", "warning", "info")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _all(campaign: Campaign, stack: ExitStack) -> Iterator[Finding]:
    yield from _same_models(campaign)
    opened: dict[str, Model] = {}
    for name, path in {"base": campaign.recipe.base, **campaign.recipe.models}.items():
        try:
            if name == "base":
                opened[name] = stack.enter_context(Checkpoint.open(path))
            else:
                opened[name] = opened_in(stack, path)
        except EvomergeError as error:
            yield failure(name, _with_hub_hint(error, campaign.folder, path))
    base = opened.pop("base", None)
    made = _made(campaign)
    if isinstance(base, Checkpoint):
        if _remote(base, opened):
            yield from check_outlines(base, opened, _whole(made))
        elif campaign.logit_fusion is not None:
            yield from check_fusion(campaign, base, opened, _whole(made))
        else:
            yield from _guarded(
                "models", lambda: check_models(base, opened, campaign.recipe.vocabulary)
            )
            yield from _only_adapters(campaign, opened)
            yield from _sizes(campaign, base)
        yield from _guarded("recipe", lambda: _search(campaign, base))
    yield from _objectives(campaign, base if isinstance(base, Checkpoint) else None, made)
    if isinstance(base, Checkpoint):
        yield from _guarded("recipe", lambda: _endpoints(campaign, base, made))
    yield from _outputs(campaign)


def _only_adapters(campaign: Campaign, models: Mapping[str, Model]) -> Iterator[Finding]:
    """A method on factors takes no whole models."""
    whole = [name for name, model in models.items() if not isinstance(model, Adapter)]
    if whole and method_named(campaign.recipe.method).traits.adapters:
        text = f"{campaign.recipe.method} works on the factors of LoRA adapters"
        yield refusal("models", f"{text}; whole models: {', '.join(whole)}")


def _remote(base: Checkpoint, models: Mapping[str, Model]) -> bool:
    return any(is_remote(model) for model in (base, *models.values()))


def _with_hub_hint(error: EvomergeError, folder: Path, path: Path) -> EvomergeError:
    """What is not there may be an id of the hub, two words and a slash."""
    words = path.relative_to(folder).parts if path.is_relative_to(folder) else ()
    if path.exists() or len(words) != 2:
        return error
    model = "/".join(words)
    cause = f"{error.cause}; a model of the hub is written with its revision, {model}@main"
    return type(error)(cause, place=error.place, command=error.command)


def _guarded(about: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check whose own failure is a finding."""
    try:
        yield from check()
    except EvomergeError as error:
        yield failure(about, error)


def _same_models(campaign: Campaign) -> Iterator[Finding]:
    seen: dict[Path, str] = {}
    for name, path in campaign.model_paths().items():
        real = path.resolve()
        if real in seen:
            yield warning("models", f"{name} is the same folder as {seen[real]}")
        seen.setdefault(real, name)


def _search(campaign: Campaign, base: Checkpoint) -> Iterator[Finding]:
    """Groups, parameters, budget arithmetic, sampler."""
    bound = campaign.recipe.bind(base.tensors)
    dimensions = len(bound.space)
    yield info(
        "space",
        f"{len(campaign.recipe.models)} models x {len(bound.groups)} tensor groups: "
        f"{dimensions} parameters",
    )
    first = bound.references(parents=campaign.measures_parents)
    outside = [r.origin for r in first if _no_point(bound, r.method, r.parameters)]
    if outside:
        text = f"ranges and pins cannot express {', '.join(outside)}"
        yield info("space", f"{text}; measured all the same, but the sampler does not see them")
    yield from _budget(campaign, bound)
    if dimensions:
        yield from _sampler(campaign, bound)


def _no_point(bound: BoundRecipe, method: str, parameters: Any) -> bool:
    return bound.point_of(parameters, method=method) is None


def _budget(campaign: Campaign, bound: BoundRecipe) -> Iterator[Finding]:
    parents, models = campaign.measures_parents, len(campaign.recipe.models)
    first, dimensions = len(bound.references(parents=parents)), len(bound.space)
    trials = campaign.budget.trials
    more = f"'parents: measured' would take {models} trials"
    left_out = "" if parents else f"; the {models} models are not measured by themselves ({more})"
    if dimensions == 0:
        alone = "the models, " if parents else ""
        text = f"every number is pinned; only the base, {alone}the models' average and warm starts"
        yield warning("budget", f"{text} are measured{left_out}")
    elif trials is None:
        text = f"{first} references come first; then the time decides how many trials there are"
        yield info("budget", f"{text}{left_out}")
    elif trials <= first:
        text = f"{trials} trials do not reach beyond the {first} references that come first"
        helps = parents and trials > first - models and campaign.sampler.name not in FROM_PARENTS
        hint = f"; 'parents: unmeasured' leaves {models} of them out" if helps else ""
        yield warning("budget", f"{text}; nothing is searched{hint}{left_out}")
    else:
        text = f"{trials} trials: {first} references, {trials - first} proposals"
        yield info("budget", f"{text} for {dimensions} parameters{left_out}")
        if trials - first <= dimensions:
            hint = "fewer groups, 'shared: true' or more trials would help"
            yield warning("budget", f"fewer proposals than parameters; {hint}")
    if campaign.workers and campaign.workers > campaign.lookahead + 1:
        text = f"{campaign.workers} workers, but a lookahead of {campaign.lookahead} keeps only"
        yield warning("workers", f"{text} {campaign.lookahead + 1} busy")


def _sampler(campaign: Campaign, bound: BoundRecipe) -> Iterator[Finding]:
    goals, trials = len(campaign.goals), campaign.budget.trials
    problem = SearchProblem(bound.space, goals, trials, campaign.seed)
    try:
        made: Sampler = families.make_sampler(campaign.sampler, problem)
        yield info("sampler", made.name)
    except EvomergeError as error:
        yield failure("sampler", error)


def _made(campaign: Campaign) -> dict[str, Objective | EvomergeError]:
    """The objectives by metric, or why one cannot be made."""
    made: dict[str, Objective | EvomergeError] = {}
    for metric, spec in campaign.objectives.items():
        try:
            made[metric] = families.make_objective(spec, campaign.folder)
        except EvomergeError as error:
            made[metric] = error
    return made


def _whole(made: Mapping[str, Objective | EvomergeError]) -> dict[str, Objective]:
    return {metric: one for metric, one in made.items() if not isinstance(one, EvomergeError)}


def _endpoints(
    campaign: Campaign, base: Checkpoint, made: Mapping[str, Objective | EvomergeError]
) -> Iterator[Finding]:
    clients: dict[str, Any] = {
        metric: one.client for metric, one in made.items() if hasattr(one, "client")
    }
    for metric, client in clients.items():
        variable = client.options.api_key_env
        if variable is not None and not os.environ.get(variable):
            yield refusal(f"goal {metric}", f"the environment variable {variable} is not set")
    large = (campaign.logit_fusion and campaign.logit_fusion.server) or {}
    priced = any(client.options.prices.known for client in clients.values())
    yield from check_budget(
        campaign.budget,
        endpoints=bool(clients or large),
        priced=priced or bool(large.get("prices")),
    )
    mixes = {metric: getattr(made[metric], "mixing", None) for metric in clients}
    with suppress(EvomergeError):  # then it was found already
        yield from check_mixing(
            lambda: campaign.recipe.bind(base.tensors), mixes, parents=campaign.measures_parents
        )


def _objectives(
    campaign: Campaign,
    base: Checkpoint | None,
    made: Mapping[str, Objective | EvomergeError],
) -> Iterator[Finding]:
    items = 0
    for metric, spec in campaign.objectives.items():
        try:
            one = made[metric]
            if isinstance(one, EvomergeError):
                raise one
            count = one.count
            if count is not None:
                sizes = campaign.items.sizes(count)
                items += sizes["search"]
                parts = ", ".join(f"{split} {size}" for split, size in sizes.items())
                yield info("items", f"{metric}: {count} items: {parts}")
        except EvomergeError as error:
            located = type(error)(
                error.cause, place=error.place or str(spec.place), command=error.command
            )
            yield failure(f"goal {metric}", located)
        unloadable = campaign.loader is None and base is not None and base.config() is None
        if spec.type == "jsonl" and unloadable:
            text = "the base has no config.json, so no language model can be made of it"
            yield refusal(f"goal {metric}", f"{text}; name a loader")
    if campaign.budget.trials and items:
        total = campaign.budget.trials * items
        yield info("budget", f"up to {total:,} items are scored in {campaign.budget.trials} trials")


def _sizes(campaign: Campaign, base: Checkpoint) -> Iterator[Finding]:
    """Memory for the live models, disk for the exports."""
    workers = campaign.workers or 1
    live = merged_bytes(base, campaign.dtype) * workers
    free = psutil.virtual_memory().available
    text = f"{workers} live model(s) of {in_bytes(live / workers)}; {in_bytes(free)} are free"
    yield (warning if live * SPARE > free else info)("memory", text)
    if campaign.export is not None:
        yield from _disk(campaign.export.to, merged_bytes(base, campaign.export.dtype))


def _disk(target: Path, size: int) -> Iterator[Finding]:
    free = shutil.disk_usage(_existing(target)).free
    text = f"a merge takes {in_bytes(size)}; {in_bytes(free)} are free at {target}"
    if free < size * SPARE:
        yield refusal("disk", text, StudyError.exit_code)
    else:
        yield info("disk", f"{text}, room for {free // max(size, 1):,}")


def _outputs(campaign: Campaign) -> Iterator[Finding]:
    targets = {"study": campaign.study}
    if campaign.export is not None:
        targets["export"] = campaign.export.to
    for about, target in targets.items():
        place = _existing(target)
        if not place.is_dir():
            yield refusal(about, f"{place} is not a folder", StudyError.exit_code)
        elif not os.access(place, os.W_OK | os.X_OK):
            yield refusal(about, f"{place} is not writable", StudyError.exit_code)
    if (campaign.study / "study.db").exists():
        yield info("study", f"{campaign.study} exists; run resumes it")


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())
