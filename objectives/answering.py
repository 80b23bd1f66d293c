"""One prompt, answered by a fusion of logits as an objective would have it answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from evomerge.objectives.batches import Batches
from evomerge.objectives.encoding import Rules, encode
from evomerge.objectives.jsonl_items import ExactMatch
from evomerge.objectives.judging import Bench, written
from evomerge.objectives.logit_fusion import Ensemble
from evomerge.objectives.matching import Matcher
from evomerge.recipe.logit_fusion import FusionFile


def answer_prompt(path: Path, prompt: str, *, limit: int, stop: Sequence[str], chat: bool) -> str:
    """What an exported fusion writes greedily behind a prompt, up to the first stop text.

    Args:
        path: of the file, or of its folder.
        limit: the most tokens to write, 1 or more.
        chat: send the prompt through the large model's chat template.

    Raises:
        CampaignError: if the file is not in order.
        CheckpointError: if a model is broken, or the tokenizers differ.
        UsageError: if the prompt does not fit the models' context.
    """
    file = FusionFile.load(path)
    model = Ensemble.of_file(file).at(file.weights)
    language = model.language
    assert language is not None
    if chat:
        prompt = language.chat([{"role": "user", "content": prompt}])
    rules = Rules(max_new_tokens=limit, special=not chat)
    encoded = encode(ExactMatch(prompt, (), "the prompt"), language, rules)
    matcher = Matcher((), tuple(stop))
    with torch.inference_mode():
        bench = Bench(language, Batches.on(model.device, 1), model.device)
        (found,) = written(bench, [matcher], [encoded], early=False)
    return matcher.said(found.text)
