"""The campaign file that ``evomerge init`` writes: whole, commented, fitted to the models."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.hub import hub_id, located
from evomerge.checkpoint.models import open_model
from evomerge.checkpoint.outline import SUFFIX
from evomerge.errors import UsageError
from evomerge.merging.registry import METHODS
from evomerge.recipe.anatomy import anatomy
from evomerge.recipe.families import fields_of
from evomerge.recipe.groups import MODULES, Grouping, Module
from evomerge.recipe.merge_section import DEFAULT_METHOD

MOST_BANDS = 4
TRIALS_PER_PARAMETER = 5

_TEXT = """\
# A campaign of evomerge. Fill in the goals, then:
#   evomerge check {file}      what would go wrong, before anything runs
#   evomerge run {file}        searches; the same command resumes
# Relative paths start at this file's folder.

base: {base}
models:
{models}
  # A number that should not be searched, or not like this, is pinned at its model:
  #   math: {{path: models/math, weight: {{fixed: 0.3}}}}     or {{range: [0, 1]}}, {{tie: other}},
  #                                                       {{shared: true}} (one for all groups)

merge:
  method: {method}    # {methods}
  groups:
    layers: {layers}    # {layer_count}; a number of bands, each, all, or [[0, 3], [4, 11]]
    modules: {modules}    # kinds with groups of their own in each band
    # regex: {{router: 'mlp\\.gate\\.'}}    # named groups; the first match wins
    embeddings: follow    # follow: as their band; own: a group of their own;
    norms: follow         # base: untouched; average: the plain average
    head: follow
{fields}

# Each goal is a metric and what measures it; at least one.
goals:
  - metric: accuracy
    objective: {objective},
                                                  # {{type: lm_eval, task: arc_easy}},
                                                  # {{type: command, command: [./judge.sh]}}
    direction: maximize
    # limit: 0.05        # a bound that has to hold
    # reference: 0.0     # bounds the hypervolume; by default from what is measured first

# Three disjoint parts of every objective's items: what the search sees, what chooses the front,
# what reports it.
items: {{search: 60%, selection: 20%, test: 20%, seed: 0}}

sampler: auto    # or a name from: evomerge plugins
budget: {{trials: {trials}}}    # for {parameters} parameters; and hours: 12, whichever ends first
# racing: {{}}        # new candidates begin on few of their search items, and cost a third or so
# parents: measured    # each model by itself; of many models auto may leave that out
study: {study}    # database, logs and cache
export: {{to: {export}, which: front, shard_size: 5GB}}    # dtype: as the base, or bfloat16
seed: 0
# workers: 2        # evaluations at once; by default one per GPU
# timeout: 10m      # of one evaluation
# isolate: true     # a fresh process for each evaluation
# loader: loaders.py:load    # for models that are no causal language models of Hugging Face
"""


class Server(NamedTuple):
    """An `evomerge serve`, and the environment variable with its key, if it wants one."""

    url: str
    key_env: str | None


def campaign_text(
    base: Path, models: Sequence[Path], *, file: Path, server: Server | None = None
) -> str:
    """A campaign file for these models; reads headers only.

    Args:
        file: where it will stand; relative paths start at its folder.
        server: that has the weights, where the models are outlines.

    Raises:
        CheckpointError: if the base is no checkpoint, or a model neither one nor an adapter.
        UsageError: if there is no model.
    """
    if not models:
        raise UsageError("no model is named; a merge needs at least one beside the base")
    for model in models:
        with open_model(located(model)):
            pass
    with Checkpoint.open(located(base)) as opened:
        names = [name for name, entry in opened.tensors.items() if entry.is_float]
    folder = file.absolute().parent
    return _TEXT.format(
        file=file,
        base=_relative(base, folder),
        models="\n".join(
            f"  {name}: {_relative(path, folder)}" for name, path in model_names(models).items()
        ),
        method=DEFAULT_METHOD,
        methods=", ".join(METHODS.names()),
        fields="\n".join(
            f"  {f.name}: [{f.low:g}, {f.high:g}]    # {f.meaning}"
            for f in fields_of(DEFAULT_METHOD)
        ),
        objective=_objective(server),
        study=_scalar(f"runs/{file.stem}.evomerge"),
        export=_scalar(f"merged/{file.stem}"),
        **_sizes(names, len(models)),
    )


def _objective(server: Server | None) -> str:
    if server is None:
        return "{type: jsonl, items: items.jsonl}    # or {type: python, function: my.py:score}"
    key = "" if server.key_env is None else f", api_key_env: {server.key_env}"
    return f"{{type: evomerge_server, url: {_scalar(server.url)}, items: items.jsonl{key}}}"


def _sizes(names: Sequence[str], models: int) -> dict[str, object]:
    """Groups that fit the base's layers, and a budget that fits the groups."""
    grouping, layers = _grouping(names)
    groups = len(grouping.assign(names).members)
    per_group = sum(models if f.per == "model" else 1 for f in fields_of(DEFAULT_METHOD))
    parameters = groups * per_group
    return {
        "layers": grouping.layers,
        "layer_count": f"the base has {layers}" if layers else "the base has no numbered layers",
        "modules": f"[{', '.join(grouping.modules)}]",
        "parameters": parameters,
        "trials": _round(models + 2 + TRIALS_PER_PARAMETER * parameters),
    }


def _grouping(names: Sequence[str]) -> tuple[Grouping, int]:
    """Up to four bands, split by kind where there are both; and how many layers there are."""
    inner = [part for part in anatomy(names).values() if part.layer is not None]
    layers = len({part.layer for part in inner})
    both = {"attention", "mlp"} <= {part.kind for part in inner}
    modules: tuple[Module, ...] = MODULES if both else ()
    return Grouping(min(layers, MOST_BANDS) if layers > 1 else "all", modules), layers


def model_names(models: Sequence[Path]) -> Mapping[str, Path]:
    """A name for each model: the last part of its path, numbered where that is taken."""
    named: dict[str, Path] = {}
    for path in models:
        stem = (
            path.absolute().name.removesuffix(".safetensors").removesuffix(SUFFIX).partition("@")[0]
        )
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.") or "model"
        taken = {"base", *named}
        choices = [name, *(f"{name}-{i}" for i in range(2, len(models) + 3))]
        named[next(choice for choice in choices if choice not in taken)] = path
    return named


def _relative(path: Path, folder: Path) -> str:
    """As the file says it: relative where the file's folder holds it, else absolute; an id of the
    hub as it is."""
    if not path.exists() and hub_id(path.as_posix()) is not None:
        return _scalar(path.as_posix())
    whole = os.path.normpath(path.absolute())
    inside = Path(whole).is_relative_to(folder)
    return _scalar(os.path.relpath(whole, folder) if inside else whole)


def _scalar(text: str) -> str:
    """Text as YAML; quoted unless it is plain beyond doubt."""
    if re.fullmatch(r"[A-Za-z/][A-Za-z0-9_./-]*", text) and not _means_something(text):
        return text
    return "'" + text.replace("'", "''") + "'"


def _means_something(text: str) -> bool:
    return text.lower() in {"null", "true", "false"}


def _round(trials: int) -> int:
    """Up to a round number."""
    return -(-trials // 10) * 10
