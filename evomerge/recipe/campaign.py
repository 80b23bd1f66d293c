"""The campaign file, read and checked; `Campaign.load` is the only way in.

Paths are resolved against the file's own folder. Nothing but the file itself is read, so a study
whose models have moved can still be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from evomerge.errors import UsageError
from evomerge.goals import Goal
from evomerge.recipe import later, merge_section, sections
from evomerge.recipe.logit_fusion import LARGE, LogitFusion
from evomerge.recipe.reader import (
    Section,
    boolean,
    error,
    integer,
    path_from,
    raise_all,
    seconds,
    word,
)
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.specs import (
    Budget,
    ExportSpec,
    ItemSplits,
    ObjectiveSpec,
    Parents,
    Racing,
    SamplerSpec,
    measures_parents,
)
from evomerge.recipe.strict_yaml import load, read

LOOKAHEAD = 4

FROM_PARENTS = frozenset({"greedy_soup", "kinship", "nested_map"})
"""Samplers that begin with what each model by itself scored."""


@dataclass(frozen=True)
class Campaign:
    """Everything that a campaign file says.

    Attributes:
        path: of the file, absolute.
        recipe: base, models, method, groups, pins, warm starts.
        goals: in file order; at least one.
        objectives: metric to what measures it; equal specs are evaluated once.
        items: how each objective's items are split.
        racing: how candidates race; None measures each on all search items.
        parents: whether a new study measures each model by itself; see `measures_parents`.
        sampler: name and options.
        budget: whichever ends first; counted across resumes.
        study: the study's folder.
        engine: what runs workers.
        export: what is written at the end; None writes nothing.
        seed: of everything random.
        workers: how many processes; None is one per GPU, or one.
        lookahead: an ask sees all trials but this many before it, so up to one more run at once.
        timeout: seconds per evaluation; None has no limit.
        isolate: whether every evaluation gets a fresh process.
        loader: ``file.py:function`` that makes a module of a folder; None takes the built-in.
        dtype: of merged tensors, measured and exported, a safetensors word such as ``BF16``; by
            default the export's; None keeps the base's.
        logit_fusion: the large model that candidates move instead of being merged; None merges.
        mirror: URL of an Optuna storage, or ``$NAME`` of the environment variable that holds it.
        source_text: the file as it was read.
    """

    path: Path
    recipe: Recipe
    goals: tuple[Goal, ...]
    objectives: Mapping[str, ObjectiveSpec]
    items: ItemSplits
    racing: Racing | None
    parents: Parents
    sampler: SamplerSpec
    budget: Budget
    study: Path
    engine: Literal["local"]
    export: ExportSpec | None
    seed: int
    workers: int | None
    lookahead: int
    timeout: float | None
    isolate: bool
    loader: str | None
    dtype: str | None
    logit_fusion: LogitFusion | None
    mirror: str | None
    source_text: str = field(compare=False, repr=False)

    @classmethod
    def load(cls, path: Path | str) -> Campaign:
        """Read a campaign file.

        Raises:
            CampaignError: with file:line:column, what was got and what is allowed.
            PluginError: on a sampler, objective or method that nothing has.
        """
        return cls.parse(read(Path(path).expanduser()), path)

    @classmethod
    def parse(cls, source_text: str, path: Path | str) -> Campaign:
        """A campaign from its text, as a study stores it.

        Args:
            path: of the file that the text is from; it need not exist any more.
        """
        file = Path(path).expanduser()
        problems: list[UsageError] = []
        top = Section(load(source_text, str(path)), "", problems)
        try:
            campaign = _read(top, file.absolute(), source_text)
        except UsageError as problem:
            raise_all([*problems, problem])
            raise
        raise_all(problems)
        return campaign

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self.path.parent

    @property
    def name(self) -> str:
        """The study's name: the file's name, or the study folder's."""
        return self.study.name.removesuffix(".evomerge")

    def model_paths(self) -> dict[str, Path]:
        """Where all models lie that decide results, by name; the base is ``base``."""
        large = self.logit_fusion and self.logit_fusion.large
        return {"base": self.recipe.base, **self.recipe.models, **({LARGE: large} if large else {})}

    @property
    def measures_parents(self) -> bool:
        """Whether a new study of this campaign measures each model by itself; it then stays so."""
        if self.parents != "auto":
            return self.parents == "measured"
        wanted = self.sampler.name in FROM_PARENTS
        return wanted or measures_parents(len(self.recipe.models), self.budget.trials)

    def identity(self) -> dict[str, Any]:
        """What decides results, as canonical JSON; two campaigns that differ are two studies.

        Budget, workers, timeout, isolation, export, mirror, how endpoints are reached and all
        paths are not in it: models are recognised by their digests, which the study keeps beside.
        """
        fusion = self.logit_fusion
        return {
            **({} if fusion is None else {"logit_fusion": fusion.identity()}),
            **({} if self.racing is None else {"racing": self.racing.to_json()}),
            **({} if self.parents == "auto" else {"parents": self.parents}),
            **self.recipe.identity(),
            "goals": [
                [g.metric, g.direction, g.limit, g.reference, self.objectives[g.metric].identity()]
                for g in self.goals
            ],
            "items": self.items.to_json(),
            "sampler": self.sampler.to_json(),
            "seed": self.seed,
            "lookahead": self.lookahead,
            "dtype": self.dtype,
            "loader": self.loader,
        }

    def mirror_url(self) -> str | None:
        """The mirror's URL, looked up in the environment where the file says so.

        Raises:
            UsageError: if the variable is not set.
        """
        if self.mirror is None or not self.mirror.startswith("$"):
            return self.mirror
        url = os.environ.get(self.mirror[1:])
        if not url:
            raise UsageError(f"mirror: the environment variable {self.mirror[1:]} is not set")
        return url


def _read(top: Section, path: Path, source_text: str) -> Campaign:
    """The campaign of a file; mistakes that leave something to check are gathered in `top`."""
    folder, problems = path.parent, top.problems
    recipe = merge_section.campaign_recipe(top, folder)
    export = sections.export(top.section("export"), folder)
    goals = top.require("goals", lambda node: sections.goals(node, problems), "a list of goals")
    campaign = Campaign(
        path=path,
        recipe=recipe,
        goals=tuple(goal for goal, _ in goals.values()),
        objectives={metric: spec for metric, (_, spec) in goals.items()},
        items=sections.items(top.section("items")),
        racing=sections.racing(top.section("racing")),
        parents=cast(Parents, top.get("parents", word(*get_args(Parents)), "auto")),
        sampler=top.get("sampler", sections.sampler, SamplerSpec("auto")),
        budget=sections.budget(top),
        study=top.get("study", path_from(folder), folder / "runs" / f"{path.stem}.evomerge"),
        engine=cast(Literal["local"], top.get("engine", _ENGINE, "local")),
        export=export,
        seed=top.get("seed", integer(0), 0),
        workers=top.get("workers", integer(1), None),
        lookahead=top.get("lookahead", integer(0, 1000), LOOKAHEAD),
        timeout=top.get("timeout", seconds, None),
        isolate=top.get("isolate", boolean, False),
        loader=top.get("loader", sections.loader, None),
        # What is measured is what is exported, so the export's dtype is the campaign's.
        dtype=top.get("dtype", sections.dtype, export.dtype if export else None),
        logit_fusion=LogitFusion.read(top.section("logit_fusion"), folder),
        mirror=top.get("mirror", sections.mirror, None),
        source_text=source_text,
    )
    top.finish(later.TOP)
    _check_outputs(top, campaign)
    return campaign


_ENGINE = word("local", later=later.ENGINES)


def _check_outputs(top: Section, campaign: Campaign) -> None:
    """Refuse to write the study or exports into a model's folder."""
    inputs = campaign.model_paths()
    outputs = {"study": campaign.study}
    if campaign.export is not None:
        outputs["export"] = campaign.export.to
    for key, output in outputs.items():
        for name, path in inputs.items():
            if key in top and _inside(output, path):
                cause = f"{key} lies inside the folder of {name!r}; inputs are never written to"
                top.problems.append(error(cause, top.node.keys[key]))


def _inside(path: Path, folder: Path) -> bool:
    """By name alone: nothing is looked up on the disk."""
    return Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder))
