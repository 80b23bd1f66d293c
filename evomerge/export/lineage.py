"""Where a merged checkpoint came from: parents, recipe, trial, scores."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evomerge._version import __version__
from evomerge.merging.plan import Vocabulary
from evomerge.trial import Measured, Split

MANIFEST = "evomerge.json"
FORMAT = 1


@dataclass(frozen=True)
class Parent:
    """The base or one model, as it was when it was merged.

    Attributes:
        name: as the campaign calls it; ``base`` for the base.
        path: where it lies.
        spoken: what a card calls it: the path from the campaign's folder, or its last part, so
            that a published card says nothing of the machine.
        shards: file name to ``{"size": bytes, "blake2b": hex}``.
        license: as its model card says it; None where it says none.
        commit: of the hub's repository `spoken`; None for a folder that is not from its cache.
    """

    name: str
    path: Path
    spoken: str
    shards: Mapping[str, Mapping[str, int | str]]
    license: str | None = None
    commit: str | None = None


@dataclass(frozen=True)
class AdapterForm:
    """How a merge was written as an adapter.

    Attributes:
        wanted: the largest rank asked for; None for all ranks.
        rank: the common rank of its modules; None before it is known.
        error: what is lost of the merge's change, relative, in the Frobenius norm; 0 is exact.
    """

    wanted: int | None
    rank: int | None = None
    error: float = 0.0


@dataclass(frozen=True)
class Lineage:
    """Everything that a merged checkpoint tells about itself.

    Attributes:
        name: of the export.
        parameters: natural values by parameter name, as `BoundRecipe.plan` takes them.
        groups: tensor group to how many tensors it holds.
        trial, origin, seed, study: None for a merge outside a study.
        scores: by split, then metric.
        adapter: None for a full checkpoint.
        large, mode: of a fusion of logits; None for a merge.
    """

    name: str
    base: Parent
    models: tuple[Parent, ...]
    method: str
    parameters: Mapping[str, float]
    groups: Mapping[str, int]
    dtype: str | None
    trial: int | None = None
    origin: str | None = None
    seed: int | None = None
    study: str | None = None
    scores: Mapping[Split, Mapping[str, Measured]] = field(default_factory=dict)
    adapter: AdapterForm | None = None
    vocabulary: Vocabulary = "refuse"
    large: Parent | None = None
    mode: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The manifest's content, without the digests of the files beside it."""
        return {
            "format": FORMAT,
            "name": self.name,
            "study": self.study,
            "trial": self.trial,
            "origin": self.origin,
            "seed": self.seed,
            "method": self.method,
            "parameters": dict(self.parameters),
            "groups": dict(self.groups),
            "dtype": self.dtype,
            "form": self.form(),
            "adapter": None if self.adapter is None else self._adapter(self.adapter),
            "vocabulary": self.vocabulary,
            "base": _parent(self.base),
            **({} if self.large is None else {"large": _parent(self.large)}),
            "models": {model.name: _parent(model) for model in self.models},
            "scores": {
                split: {
                    metric: {
                        "mean": value.mean,
                        "standard_error": value.standard_error,
                        "items": value.items,
                    }
                    for metric, value in by_metric.items()
                }
                for split, by_metric in self.scores.items()
            },
            "versions": versions(),
        }

    def form(self) -> list[str | int | None]:
        """What was asked for, as JSON.

        A full checkpoint, an adapter of at most some rank, or a fusion of logits in some mode.
        """
        if self.mode is not None:
            return ["logit_fusion", self.mode]
        return ["full"] if self.adapter is None else ["lora", self.adapter.wanted]

    @staticmethod
    def _adapter(adapter: AdapterForm) -> dict[str, Any]:
        return {"rank": adapter.rank, "relative_error": adapter.error}


def versions() -> dict[str, str]:
    """What computed the merge."""
    found = {"evomerge": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _parent(parent: Parent) -> dict[str, Any]:
    hub = {} if parent.commit is None else {"commit": parent.commit}
    return {
        "path": parent.spoken,
        **hub,
        "license": parent.license,
        "shards": {name: dict(digest) for name, digest in parent.shards.items()},
    }
