"""Exporting a study's trials: one, or the Pareto set with its listing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomerge.checkpoint.dtypes import parse_dtype
from evomerge.checkpoint.files import write_file
from evomerge.errors import EvomergeError, StudyError, StudyMismatchError, UsageError
from evomerge.export.adapter import write_lora
from evomerge.export.coefficients import is_elsewhere, write_coefficients
from evomerge.export.lineage import MANIFEST, AdapterForm, Lineage
from evomerge.export.logit_fusion import write_fusion
from evomerge.export.manifest import read_manifest, verify
from evomerge.export.writer import parent, write_checkpoint
from evomerge.recipe.logit_fusion import LARGE, FusionFile, fusion_weights
from evomerge.report.summary import front_rows
from evomerge.study.inputs import CACHE, Input, changed_inputs
from evomerge.study.references import model_of
from evomerge.study.study import Study
from evomerge.trial import SPLITS, Trial

LISTING = "front"
_DECISIVE = ("method", "parameters", "dtype", "form", "base")


def export(
    study: Study,
    out: Path,
    *,
    trial: int | None = None,
    dtype: str | None = None,
    shard_size: int | None = None,
    adapter: AdapterForm | None = None,
) -> list[Path]:
    """Write the Pareto set, or one trial.

    Args:
        trial: its number; None for the Pareto set.
        dtype: as people write it, ``bfloat16``; None for the campaign's.
        shard_size: in bytes; None for the campaign's.
        adapter: write adapters instead of full checkpoints; None for what the campaign says.

    Returns:
        The folders of the merges.
    """
    word = None if dtype is None else parse_dtype(dtype)
    if out.exists() and not out.is_dir():
        raise UsageError("this is a file; a folder is wanted", place=str(out))
    if trial is not None:
        return [export_trial(study, trial, out, dtype=word, shard_size=shard_size, adapter=adapter)]
    return export_front(study, out, dtype=word, shard_size=shard_size, adapter=adapter)


def export_front(
    study: Study,
    out: Path,
    *,
    dtype: str | None = None,
    shard_size: int | None = None,
    adapter: AdapterForm | None = None,
) -> list[Path]:
    """Write the Pareto set: a checkpoint for each merge, ``front.json`` and ``front.csv``.

    The base and parents on the front are listed with their own folders; no copy is made.

    Returns:
        The folders of the merges, also of those that were there already, whole.

    Raises:
        StudyError: if no trial has ended yet.
    """
    rows = front_rows(study)
    if not rows:
        raise StudyError(
            "no trial has ended yet, so there is no front to export",
            place=str(study.folder),
            command=f"evomerge run {study.campaign.path}",
        )
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for row in rows:
        own = _own_folder(study, row["origin"])
        if own is None:
            own = export_trial(
                study,
                row["trial"],
                out,
                dtype=dtype,
                shard_size=shard_size,
                adapter=adapter,
                once=False,
            )
            written.append(own)
            row["path"] = own.name
        else:
            row["path"] = str(own)
    write_listing(rows, out)
    return written


def export_trial(
    study: Study,
    number: int,
    out: Path,
    *,
    dtype: str | None = None,
    shard_size: int | None = None,
    adapter: AdapterForm | None = None,
    once: bool = True,
) -> Path:
    """Write one trial as ``out/STUDY-NUMBER``; what is there already, and whole, stays.

    Args:
        once: False where more trials follow, as for `evomerge.export.writer.write_checkpoint`.

    Raises:
        UsageError: if something else has that name.
        StudyMismatchError: if a model has changed since the trial was measured.
    """
    trial = study.trial(number)
    target = out / f"{study.name}-{number}"
    options = study.campaign.export
    if adapter is None and options is not None and options.form == "lora":
        adapter = AdapterForm(options.rank)
    if study.campaign.logit_fusion is not None:
        _check_no_weights(study, dtype, adapter)
    lineage = lineage_of(study, trial, dtype=dtype, adapter=adapter)
    _check_parents(study, lineage)
    if target.exists():
        _check_same(target, lineage)
        return target
    fusion = _fusion_of(study, trial)
    if fusion is not None:
        return write_fusion(fusion, lineage, target)
    plan = study.recipe.plan(trial.candidate.method, trial.candidate.parameters)
    if is_elsewhere(lineage.base.path):
        merge = study.recipe.merge_section(trial.candidate.method, trial.candidate.parameters)
        return write_coefficients(merge, lineage, target)
    if adapter is not None:
        return write_lora(plan, lineage, target, wanted=adapter.wanted, dtype=lineage.dtype)
    return write_checkpoint(
        plan,
        lineage,
        target,
        dtype=lineage.dtype,
        shard_size=shard_size or (options.shard_size if options else None),
        cache=study.folder / CACHE,
        once=once,
    )


def lineage_of(
    study: Study, trial: Trial, *, dtype: str | None = None, adapter: AdapterForm | None = None
) -> Lineage:
    """Where a trial's merge comes from."""
    campaign, candidate = study.campaign, trial.candidate
    cache, home, fusion = study.folder / CACHE, campaign.folder, campaign.logit_fusion
    exported = campaign.export.dtype if campaign.export and fusion is None else None
    return Lineage(
        name=f"{study.name}-{trial.number}",
        base=parent("base", campaign.recipe.base, home=home, cache=cache),
        models=tuple(
            parent(name, path, home=home, cache=cache)
            for name, path in campaign.recipe.models.items()
        ),
        method=candidate.method,
        parameters=candidate.parameters,
        groups={group: len(names) for group, names in study.recipe.groups.items()},
        dtype=dtype or exported or (campaign.dtype if adapter is None else None),
        trial=trial.number,
        origin=candidate.origin,
        seed=study.seed,
        study=study.name,
        scores=trial.results,
        adapter=adapter,
        vocabulary=campaign.recipe.vocabulary,
        large=parent("large", fusion.large, home=home, cache=cache)
        if fusion and fusion.large
        else None,
        mode=None if fusion is None else fusion.mode,
    )


def write_listing(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """``front.json`` with everything, ``front.csv`` with one line for each trial."""
    text = json.dumps(rows, indent=2) + "\n"
    write_file(out / f"{LISTING}.json", text.encode())
    lines = [_csv_row(row) for row in rows]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_file(out / f"{LISTING}.csv", buffer.getvalue().encode())


def _csv_row(row: dict[str, Any]) -> dict[str, Any]:
    cells = {"trial": row["trial"], "origin": row["origin"], "path": row["path"]}
    for metric, by_split in row["values"].items():
        for split in SPLITS:
            value = by_split.get(split, {})
            cells[f"{metric}_{split}"] = value.get("mean")
            cells[f"{metric}_{split}_standard_error"] = value.get("standard_error")
    return {**cells, "feasible": row["feasible"]}


def _fusion_of(study: Study, trial: Trial) -> FusionFile | None:
    """What the trial's fusion of logits is; None where tensors are merged."""
    campaign, candidate = study.campaign, trial.candidate
    if campaign.logit_fusion is None:
        return None
    numbers = study.recipe.coefficients(candidate.method, candidate.parameters)
    recipe, weights = campaign.recipe, fusion_weights(numbers)
    return FusionFile(campaign.logit_fusion, recipe.base, recipe.models, weights, campaign.dtype)


def _check_no_weights(study: Study, dtype: str | None, adapter: AdapterForm | None) -> None:
    """A fusion is exported as it was measured, and not as tensors."""
    asked = "a LoRA adapter" if adapter is not None else f"tensors in {dtype}"
    if adapter is not None or dtype is not None:
        raise UsageError(
            f"this study fuses logits: there is no merge to be written as {asked}",
            place=str(study.folder),
            kept="nothing was written",
            command="leave that off; `evomerge answer` runs what is exported",
        )


def _own_folder(study: Study, origin: str) -> Path | None:
    """Where the base or a parent lies already; None for a merge."""
    recipe, fusion = study.campaign.recipe, study.campaign.logit_fusion
    if fusion is not None:
        return fusion.large if origin == "base" else None
    if origin == "base":
        return recipe.base
    model = model_of(origin)
    return None if model is None else recipe.models.get(model)


def _check_parents(study: Study, lineage: Lineage) -> None:
    """Refuse to merge other tensors than those that were measured."""
    parents = {"base": lineage.base, **{f"models.{m.name}": m for m in lineage.models}}
    if lineage.large is not None:
        parents[LARGE] = lineage.large
    now = [
        Input(role, file, int(shard["size"]), str(shard["blake2b"]))
        for role, parent in parents.items()
        for file, shard in parent.shards.items()
    ]
    changed = changed_inputs([given for given in study.inputs if given.role in parents], now)
    if changed:
        raise StudyMismatchError(
            "models have changed since they were measured:\n  " + "\n  ".join(changed),
            place=str(study.folder),
            kept="nothing was written",
            command=f"put the old files back, or evomerge run {study.campaign.path} --fork",
        )


def _check_same(target: Path, lineage: Lineage) -> None:
    """Accept an earlier export of the same merge; refuse anything else of that name."""
    try:
        found = read_manifest(target)
        whole = not verify(target)
    except EvomergeError:
        found, whole = {}, False
    wanted = lineage.to_json()
    same = all(found.get(key) == wanted[key] for key in _DECISIVE)
    if not (whole and same):
        raise UsageError(
            f"the folder exists and is not this merge's whole export (see its {MANIFEST})",
            place=str(target),
            kept="nothing was written",
            command="choose another OUT, or remove the folder",
        )
