"""Writing one merge as a LoRA adapter's folder: whole under its name, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.adapter_writer import ModuleFactors, write_adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import torch_dtype
from evomerge.checkpoint.files import staged_folder
from evomerge.checkpoint.models import Model, opened_in
from evomerge.errors import CheckpointError
from evomerge.export.card import model_card
from evomerge.export.lineage import MANIFEST, AdapterForm, Lineage
from evomerge.export.manifest import manifest, read_manifest
from evomerge.export.writer import copy_licences, refuse_inside
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan

if TYPE_CHECKING:
    from evomerge.merging.factoring import Factored


def write_lora(
    plan: MergePlan, lineage: Lineage, target: Path, *, wanted: int | None, dtype: str | None
) -> Path:
    """Write a merge as an adapter to the base, with everything that belongs beside its weights.

    Args:
        plan: what to do with every tensor.
        lineage: where base and models lie; what was made of the merge is added to it.
        target: must not exist.
        wanted: the largest rank; None keeps all ranks, which only sums of adapters can.
        dtype: a safetensors word such as ``BF16``; None is float32.

    Returns:
        The target.

    Raises:
        UsageError: if no adapter can express the merge, or the target lies inside a model.
        CheckpointError: if a model is broken, or the merge is not finite.
    """
    from evomerge.merging.factoring import factored, relative_error  # loads torch

    refuse_inside(target, lineage)
    with ExitStack() as stack:
        base = stack.enter_context(Checkpoint.open(lineage.base.path))
        models = {m.name: opened_in(stack, m.path) for m in lineage.models}
        merger = Merger(base, models, vocabulary=lineage.vocabulary)
        merger.check(plan)
        parts = list(factored(merger, plan, wanted, torch_dtype(dtype or "F32")))
        _check_finite(parts, target)
        with staged_folder(target) as folder:
            rank = _write(folder, parts, base, lineage.base.spoken, list(models.values()))
            made = AdapterForm(wanted, rank, relative_error(parts))
            told = replace(lineage, adapter=made)
            copy_licences({"base": base, **models}, folder)
            (folder / "README.md").write_text(model_card(told), encoding="utf-8")
            (folder / MANIFEST).write_bytes(manifest(folder, told.to_json()))
    return target


def write_factors(
    merger: Merger, plan: MergePlan, folder: Path, *, base: Checkpoint, models: Sequence[Model]
) -> None:
    """Write a merge that is a sum of adapters into a folder that exists: weights and config.

    Raises:
        UsageError: if it is no sum of adapters.
        CheckpointError: if it is not finite.
    """
    from evomerge.merging.factoring import factored

    parts = list(factored(merger, plan, None))
    _check_finite(parts, folder)
    _write(folder, parts, base, str(base.path), models)


def described(folder: Path) -> str:
    """An export for people: its folder, and for an adapter its rank and what was lost."""
    made = read_manifest(folder).get("adapter")
    if not isinstance(made, dict):
        return str(folder)
    loss = f"relative error {made['relative_error']:.3g}" if made["relative_error"] else "exact"
    return f"{folder}, an adapter of rank {made['rank']}, {loss}"


def _write(
    folder: Path, parts: Sequence[Factored], base: Checkpoint, name: str, models: Sequence[Model]
) -> int:
    modules = [part.factors for part in parts]
    return write_adapter(
        folder,
        modules,
        targets=_targets(base, modules),
        base=name,
        transposed=any(part.transposed for part in parts),
        task=_task(models),
    )


def _targets(base: Checkpoint, modules: Sequence[ModuleFactors]) -> list[str]:
    """The last words of the modules' names where all of the base's are meant, else whole names."""
    names = [module.module for module in modules]
    lasts = {name.rpartition(".")[2] for name in names}
    ends = [name.removesuffix(".weight").rpartition(".")[2] for name in base.tensors]
    whole = all(
        ends.count(last) == sum(name.rpartition(".")[2] == last for name in names) for last in lasts
    )
    return sorted(lasts if whole else names)


def _task(models: Sequence[Model]) -> str | None:
    """What all adapters say that the model does; causal language modelling where none is."""
    words = {model.settings.task for model in models if isinstance(model, Adapter)}
    return "CAUSAL_LM" if not words else words.pop() if len(words) == 1 else None


def _check_finite(parts: Sequence[Factored], target: Path) -> None:
    bad = [
        part.factors.module
        for part in parts
        if not (part.factors.up.isfinite().all() and part.factors.down.isfinite().all())
    ]
    if bad:
        raise CheckpointError(
            f"the merge has NaN or infinite entries in {', '.join(bad[:3])}",
            place=str(target),
            kept="nothing was written",
        )
