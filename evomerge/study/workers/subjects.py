"""What objectives are given: the live model, a checkpoint folder, or bare coefficients.

Models are opened, and the live one loaded, once per worker and only if an objective needs them; a
campaign of coefficients alone reads the base's headers and never imports torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.interfaces import Need
from evomerge.objectives.endpoint.numbers import candidate_name
from evomerge.objectives.subject import Written
from evomerge.recipe.campaign import Campaign
from evomerge.recipe.logit_fusion import fusion_weights
from evomerge.study.inputs import CACHE
from evomerge.study.workers.messages import Job

if TYPE_CHECKING:
    from evomerge.checkpoint.checkpoint import Checkpoint
    from evomerge.checkpoint.models import Model
    from evomerge.merging.live import LiveMerge
    from evomerge.merging.merger import Merger
    from evomerge.objectives.endpoint.client import Client
    from evomerge.objectives.logit_fusion import Ensemble
    from evomerge.objectives.subject import LiveModel
    from evomerge.recipe.recipe import BoundRecipe, Reference


class Subjects:
    """Makes of each job what the campaign's objectives need."""

    def __init__(self, campaign: Campaign, needs: frozenset[Need]) -> None:
        """Open and load all that is needed.

        Raises:
            CheckpointError: if a model is broken or does not fit.
            UsageError: if the live model's loader is at fault.
        """
        self._campaign = campaign
        self._needs = needs
        if "model" in needs:
            _ = self._live if campaign.logit_fusion is None else self._ensemble
        if needs & {"folder", "adapter", "candidate"}:
            _ = self._merger
        if "coefficients" in needs:
            _ = self._recipe

    @property
    def client(self) -> Client | None:
        """Of a large model behind an API; None without one."""
        fused = self._campaign.logit_fusion is not None and "model" in self._needs
        return self._ensemble.client if fused else None

    def references(self) -> tuple[Reference, ...]:
        """The base, each model, their average: the merges that are known without a search."""
        return self._recipe.references()

    @contextmanager
    def of(self, job: Job) -> Iterator[Mapping[Need, Any]]:
        """Subjects by need; a folder is gone when the block ends."""
        with ExitStack() as stack:
            made: dict[Need, Any] = {}
            if self._needs & {"coefficients", "candidate"}:
                made["coefficients"] = self._recipe.coefficients(job.method, job.parameters)
            if self._needs & {"folder", "candidate"}:
                made["folder"] = stack.enter_context(self._written(job))
            if "candidate" in self._needs:
                made["candidate"] = Written(made["folder"], made["coefficients"])
            if "adapter" in self._needs:
                made["adapter"] = stack.enter_context(self._adapter(job))
            if "model" in self._needs and self._campaign.logit_fusion is not None:
                numbers = self._recipe.coefficients(job.method, job.parameters)
                made["model"] = self._ensemble.at(fusion_weights(numbers))
            elif "model" in self._needs:
                self.mend(job)
                made["model"], _ = self._live
            yield made

    def mend(self, job: Job) -> None:
        """Write again what an objective has written to in the live model; no work if it has not.

        Logits are fused beside the models, whose parameters objectives do not reach for.
        """
        if self._campaign.logit_fusion is not None:
            return
        _, merge = self._live
        merge.apply(self._recipe.plan(job.method, job.parameters))

    @contextmanager
    def _written(self, job: Job) -> Iterator[Path]:
        plan = self._recipe.plan(job.method, job.parameters)
        with self._named(job, "") as target:
            with _filled(target) as folder:
                for file in self._base.side_files():
                    shutil.copyfile(file, folder / file.name)
                self._merger.write(plan, folder, dtype=self._campaign.dtype)
            yield target

    @contextmanager
    def _adapter(self, job: Job) -> Iterator[Path]:
        from evomerge.export.adapter import write_factors

        plan = self._recipe.plan(job.method, job.parameters)
        models = list(self._models.values())
        with self._named(job, "-adapter") as target:
            with _filled(target) as folder:
                write_factors(self._merger, plan, folder, base=self._base, models=models)
            yield target

    @contextmanager
    def _named(self, job: Job, kind: str) -> Iterator[Path]:
        """A path named by the candidate's content, gone when the block ends.

        A server that keeps models by path never takes one for another.
        """
        coefficients = self._recipe.coefficients(job.method, job.parameters)
        name = candidate_name([job.method, coefficients])
        target = job.scratch / f"{job.attempt}{kind}" / name
        try:
            yield target
        finally:
            shutil.rmtree(target.parent, ignore_errors=True)

    @cached_property
    def _base(self) -> Checkpoint:
        from evomerge.checkpoint.checkpoint import Checkpoint

        return Checkpoint.open(self._campaign.recipe.base)

    @cached_property
    def _models(self) -> dict[str, Model]:
        from evomerge.checkpoint.models import open_model

        return {name: open_model(path) for name, path in self._campaign.recipe.models.items()}

    @cached_property
    def _recipe(self) -> BoundRecipe:
        return self._campaign.recipe.bind(self._base.tensors)

    @cached_property
    def _merger(self) -> Merger:
        from evomerge.checkpoint.caches import INDEX, cache_folder
        from evomerge.checkpoint.models import own_tensors
        from evomerge.merging.merger import Merger

        for model in (self._base, *self._models.values()):
            own_tensors(model).recall(self._campaign.study / CACHE)
        return Merger(
            self._base,
            self._models,
            index=cache_folder() / INDEX,
            vocabulary=self._campaign.recipe.vocabulary,
        )

    @cached_property
    def _ensemble(self) -> Ensemble:
        from evomerge.objectives.logit_fusion import Ensemble

        campaign = self._campaign
        assert campaign.logit_fusion is not None
        recipe = campaign.recipe
        return Ensemble.load(
            campaign.logit_fusion, recipe.base, recipe.models, dtype=campaign.dtype
        )

    @cached_property
    def _live(self) -> tuple[LiveModel, LiveMerge]:
        from evomerge.merging.live import LiveMerge
        from evomerge.objectives.models import load_model

        campaign = self._campaign
        live = load_model(
            campaign.recipe.base,
            dtype=campaign.dtype,
            loader=campaign.loader,
            root=campaign.folder,
        )
        return live, LiveMerge(self._merger, live.module, dtype=campaign.dtype)


def _filled(target: Path) -> AbstractContextManager[Path]:
    from evomerge.checkpoint.files import staged_folder

    return staged_folder(target, replace=True)
