"""``evomerge inspect``: what the task vectors of some models are like, as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import Any

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.models import opened_in
from evomerge.merging.compatibility import merges
from evomerge.merging.compeft import file_bits
from evomerge.merging.measures import Measures, Tally, measure
from evomerge.merging.merger import Merger
from evomerge.merging.plan import Vocabulary
from evomerge.recipe.anatomy import Part, anatomy

DENSITIES = (0.05, 0.1, 0.2, 0.5)

Row = Mapping[str, Any]


def inspection(
    base: Path, models: Mapping[str, Path], *, vocabulary: Vocabulary = "refuse"
) -> dict[str, list[Row]]:
    """Rows by table: models, sparsity, kinship, layers.

    Every file is read once, in a few chunks of memory.

    Args:
        vocabulary: what becomes of rows where vocabularies differ; rows left out count as
            unchanged.

    Raises:
        CheckpointError: a model is broken, or does not fit the base.
    """
    with ExitStack() as stack:
        opened = stack.enter_context(Checkpoint.open(base))
        given = {name: opened_in(stack, path) for name, path in models.items()}
        merger = Merger(opened, given, vocabulary=vocabulary)
        parts = anatomy([name for name, entry in opened.tensors.items() if merges(entry)])
        found = measure(merger, _ordered(parts, merger))
    names = list(models)
    return {
        "models": [_model(found, i, name) for i, name in enumerate(names)],
        "sparsity": [_sparse(found, i, n, d) for i, n in enumerate(names) for d in DENSITIES],
        "kinship": list(_pairs(found.whole, names)),
        "layers": [_layer(part, tally, names) for part, tally in found.parts.items()],
    }


def _ordered(parts: Mapping[str, Part], merger: Merger) -> Iterator[tuple[str, str]]:
    """Each tensor with its layer; embeddings first, norms and head last; tied ones once."""
    named = [(name, part) for name, part in parts.items() if name not in merger.follows]
    for name, part in sorted(named, key=_place):
        yield name, part.kind if part.layer is None else str(part.layer)


def _place(item: tuple[str, Part]) -> tuple[int, int]:
    part = item[1]
    return (1, part.layer) if part.layer is not None else (0 if part.first else 2, 0)


def _model(found: Measures, i: int, name: str) -> Row:
    whole = found.whole
    norm = whole.norm(i)
    return {
        "model": name,
        "norm": norm,
        "of the base": norm / whole.base**0.5 if whole.base else None,
        "unchanged": whole.zeros(i),
        "largest tie": found.magnitudes[i].largest_tie,
    }


def _sparse(found: Measures, i: int, name: str, density: float) -> Row:
    kept, first, second = found.magnitudes[i].kept(density)
    return {
        "model": name,
        "density": density,
        "L1 kept": first,
        "L2 kept": second,
        "ComPEFT bytes": round(file_bits(found.whole.entries, kept) / 8),
    }


def _pairs(tally: Tally, names: Sequence[str]) -> Iterator[Row]:
    for one, other in combinations(range(len(names)), 2):
        kin = tally.kinship(one, other)
        yield {
            "models": f"{names[one]} {names[other]}",
            "cosine": kin.cosine,
            "pearson": kin.pearson,
            "distance": kin.distance,
            "sign conflicts": kin.conflicts,
        }


def _layer(part: str, tally: Tally, names: Sequence[str]) -> Row:
    return {
        "layer": part,
        "tensors": tally.tensors,
        "entries": tally.entries,
        "norms": {name: tally.norm(i) for i, name in enumerate(names)},
        "sign conflicts": tally.conflicts,
        "kinship": list(_pairs(tally, names)),
    }
