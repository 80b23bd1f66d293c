"""What a campaign that fuses logits must be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from evomerge.checkpoint.adapter import Adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.folder import read_json
from evomerge.checkpoint.models import Model
from evomerge.errors import CheckpointError, EvomergeError
from evomerge.interfaces import Objective
from evomerge.recipe import families
from evomerge.recipe.campaign import Campaign
from evomerge.recipe.endpoint_checks import unmixable
from evomerge.recipe.findings import Finding, failure, in_bytes, info, refusal, warning
from evomerge.recipe.logit_fusion import MIXING
from evomerge.recipe.model_checks import merged_bytes
from evomerge.recipe.recipe import BoundRecipe

TOKENIZER = "tokenizer.json"
SPARE = 1.2
"""Free memory is wanted this many times over."""


def check_fusion(
    campaign: Campaign,
    base: Checkpoint,
    models: Mapping[str, Model],
    objectives: Mapping[str, Objective],
) -> Iterator[Finding]:
    """All findings.

    Args:
        models: those that could be opened.
        objectives: by metric, those that could be made.
    """
    assert campaign.logit_fusion is not None
    fusion, large = campaign.logit_fusion, campaign.logit_fusion.large
    whole: list[Checkpoint] = [base]
    for name, model in models.items():
        if isinstance(model, Adapter):
            text = f"{name} is an adapter; logit fusion runs whole models"
            yield refusal("models", f"{text}; `evomerge merge` writes it as one")
        else:
            whole.append(model)
    try:
        with ExitStack() as stack:
            here = whole if large is None else [stack.enter_context(Checkpoint.open(large)), *whole]
            for small in here[1:]:
                conflict = token_conflict(here[0].path, small.path)
                if conflict is not None:
                    yield refusal("logit_fusion", conflict, CheckpointError.exit_code)
            yield from _memory(campaign, here)
    except EvomergeError as error:
        yield failure("logit_fusion", error)
    if fusion.server is not None:
        yield from _remote(fusion.server)
    yield from _space(lambda: campaign.recipe.bind(base.tensors), parents=campaign.measures_parents)
    for metric, objective in objectives.items():
        if not getattr(objective, "reads_logits", False):
            text = "it wants one merged model, and logit fusion makes none"
            yield refusal(f"goal {metric}", f"{text}; measure it by jsonl or lm_eval")
    if campaign.loader is not None:
        yield refusal("loader", "logit fusion loads its models itself; leave off the loader")
    if campaign.export is not None and campaign.export.form == "lora":
        yield refusal("export", "a fusion of logits is no adapter; leave off `form: lora`")


def _remote(server: Mapping[str, Any]) -> Iterator[Finding]:
    variable = server.get("api_key_env")
    if isinstance(variable, str) and not os.environ.get(variable):
        yield refusal("logit_fusion", f"the environment variable {variable} is not set")
    try:
        families.check_server(server)  # its url may stand in the environment
    except EvomergeError as error:
        yield failure("logit_fusion", error)
    text = (
        "the large model is asked for its likeliest tokens alone; what it does not tell is spread"
    )
    yield info("logit_fusion", f"{text} evenly, see docs/logit_fusion.md")


def token_conflict(one: Path, other: Path) -> str | None:
    """The first token id that means two things to two models, in a sentence; None without one.

    Raises:
        CheckpointError: if a folder has no ``tokenizer.json``, or it has no vocabulary.
    """
    first, second = token_table(one), token_table(other)
    for token in sorted(first.keys() & second.keys()):
        if first[token] != second[token]:
            return (
                f"the token {token} is {first[token]!r:.40} to {one} and {second[token]!r:.40} to "
                f"{other}; logits are fused between models of one tokenizer"
            )
    return None


def token_table(folder: Path) -> dict[int, str]:
    """Token id to token, as ``tokenizer.json`` says it.

    Raises:
        CheckpointError: if it is missing, or has no vocabulary.
    """
    if not (folder / TOKENIZER).exists():
        cause = f"there is no {TOKENIZER}; logit fusion compares tokenizers by it"
        raise CheckpointError(cause, place=str(folder))
    document = read_json(folder, TOKENIZER)
    try:
        vocabulary: Any = document["model"]["vocab"]
        if isinstance(vocabulary, Mapping):
            table = {int(token): str(text) for text, token in vocabulary.items()}
        else:  # Unigram: a list of tokens with their scores
            table = {token: str(text) for token, (text, _) in enumerate(vocabulary)}
        added = document.get("added_tokens") or ()
        return table | {int(one["id"]): str(one["content"]) for one in added}
    except (KeyError, TypeError, ValueError) as error:
        cause = f"{TOKENIZER} has no vocabulary that evomerge can read ({error!r:.80})"
        raise CheckpointError(cause, place=str(folder)) from error


def _memory(campaign: Campaign, models: list[Checkpoint]) -> Iterator[Finding]:
    workers = campaign.workers or 1
    size = sum(merged_bytes(model, campaign.dtype) for model in models)
    free = psutil.virtual_memory().available
    text = f"{len(models)} models of {in_bytes(size)} together in {workers} worker(s)"
    short = size * workers * SPARE > free
    yield (warning if short else info)("memory", f"{text}; {in_bytes(free)} are free")


def _space(bind: Callable[[], BoundRecipe], *, parents: bool) -> Iterator[Finding]:
    try:
        wrong = unmixable(bind(), MIXING, parents=parents)
    except EvomergeError:  # then it was found already
        return
    if wrong is not None:
        hint = "{method: task_arithmetic, groups: {layers: all}, scaling: {fixed: 1}}"
        text = f"a fusion has one weight per model: {wrong}"
        yield refusal("merge", f"{text}; write `merge: {hint}`")
    else:
        yield info("logit_fusion", "candidates are weights of logits, and exports name them")
