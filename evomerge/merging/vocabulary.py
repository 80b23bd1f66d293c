"""Models whose vocabularies differ from the base's: what becomes of the rows.

The output has the base's rows, which its tokenizer and config are for. ``refuse`` merges no such
model. ``common`` merges the first rows, those that the base and all models have; the others are
the base's own. ``base`` merges each of the base's rows with the models that have it; for the others
it counts as unchanged. Rows beyond the base's are left out in both.
"""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.models import Model
from evomerge.checkpoint.rows import RefittedCheckpoint
from evomerge.merging.compatibility import ROWS_OF_TOKENS
from evomerge.merging.plan import Vocabulary


def rows_used(
    base: Checkpoint, models: Mapping[str, Model], vocabulary: Vocabulary
) -> dict[str, dict[str, int]]:
    """How many rows of each model are merged, by model and tensor, where that is not all of both.

    Adapters are measured by the base, so they have its rows.
    """
    if vocabulary == "refuse":
        return {}
    whole = {name: model for name, model in models.items() if isinstance(model, Checkpoint)}
    found: dict[str, dict[str, int]] = {}
    for tensor, entry in base.tensors.items():
        if not tensor.endswith(ROWS_OF_TOKENS) or not entry.shape:
            continue
        heights = {name: _rows(model, tensor, entry.shape) for name, model in whole.items()}
        known = {name: min(rows, entry.shape[0]) for name, rows in heights.items() if rows}
        least = min(known.values(), default=0)
        for name, rows in known.items():
            used = least if vocabulary == "common" else rows
            if heights[name] != entry.shape[0] or used != entry.shape[0]:
                found.setdefault(name, {})[tensor] = used
    return found


def refitted(
    base: Checkpoint, models: Mapping[str, Model], vocabulary: Vocabulary
) -> dict[str, Model]:
    """The models with the base's rows, where the policy allows that."""
    found = dict(models)
    for name, rows in rows_used(base, models, vocabulary).items():
        model = models[name]
        assert isinstance(model, Checkpoint)
        found[name] = RefittedCheckpoint(model, base, rows)
    return found


def _rows(model: Checkpoint, tensor: str, shape: tuple[int, ...]) -> int:
    """Rows of a tensor that differs from the base's in its rows at most; 0 for another."""
    entry = model.tensors.get(tensor)
    if entry is None or not entry.is_float or entry.shape[1:] != shape[1:] or not entry.shape:
        return 0
    return entry.shape[0]
