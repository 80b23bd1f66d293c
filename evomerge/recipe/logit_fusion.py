"""Logit fusion: a large model moved, token by token, by what small models have learnt.

Proxy-tuning (Liu et al. 2024, arXiv:2401.08565): the logits of the large model plus the weighted
differences between small models and their own base. Nothing is merged; a candidate is one weight
for each small model, and what is exported is a file that names the models and these weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from evomerge.coefficients import Coefficients, Mixing
from evomerge.errors import CampaignError, UsageError
from evomerge.recipe import families, sections
from evomerge.recipe.reader import (
    Parser,
    Section,
    error,
    model_path_from,
    nearest,
    number,
    path_from,
    raise_all,
    word,
)
from evomerge.recipe.sections import options
from evomerge.recipe.specs import REACHING
from evomerge.recipe.strict_yaml import Node, load, read

Mode = Literal["static", "matched"]
MODES = ("static", "matched")
LARGE = "logit_fusion.large"
"""What the large model is called among the inputs of a study."""
FILE = "fusion.yaml"
SERVER = (
    "url", "model", "top", "echo", "extra",
    "api_key_env", "api_key_header", "headers", "connection", "prices",
)  # fmt: skip
"""Options of a large model behind an API."""
MIXING = Mixing("model")
"""What of a candidate a fusion can do: one weight per model, whole task vectors."""


@dataclass(frozen=True)
class LogitFusion:
    """The section ``logit_fusion`` of a campaign.

    Attributes:
        large: folder of the model that is moved; its tokens are those of the small models. None
            where it is behind an API.
        mode: ``static`` adds the weighted differences as they are; ``matched`` scales them for
            each token, see `evomerge.objectives.logit_fusion.matching_scale`.
        server: options of the API, see `evomerge.objectives.remote_options`, in order and without
            secrets; None where there is a folder.
    """

    large: Path | None
    mode: Mode = "static"
    server: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, part: Section | None, folder: Path) -> LogitFusion | None:
        """The section, if it is there."""
        if part is None:
            return None
        large = part.require("large", _large_from(folder), "the folder of the large model")
        mode = cast(Mode, part.get("mode", word(*MODES), "static"))
        part.finish()
        return cls(large, mode) if isinstance(large, Path) else cls(None, mode, large)

    def identity(self) -> Any:
        """What of it decides results beside weights: not where an API is reached, nor how; JSON."""
        if self.server is None:
            return self.mode
        decides = {key: value for key, value in self.server.items() if key not in REACHING}
        return [self.mode, decides]


def _large_from(folder: Path) -> Parser[Path | dict[str, Any]]:
    """A folder, or the options of an API."""
    local = model_path_from(folder)

    def parse(node: Node) -> Path | dict[str, Any]:
        if not isinstance(node.value, Mapping):
            return local(node)
        for key in node.value:
            if key not in SERVER:
                cause = f"{key!r} is no option of a large model{nearest(key, SERVER)}"
                raise error(cause, node.keys[key])
        found: dict[str, Any] = options(node)
        for key, value in found.items():
            if key == "url" and str(value).startswith("$"):  # looked up where it is asked
                continue
            try:
                families.check_server({key: value})
            except UsageError as problem:
                raise error(problem.cause, node.keys[key]) from None
        for key in ("url", "model"):
            if not isinstance(found.get(key), str):
                raise error(f"the large model's {key} is missing, a text", node)
        return found

    return parse


def fusion_weights(candidate: Coefficients) -> dict[str, float]:
    """A candidate's weights by model.

    Raises:
        UsageError: if it has other numbers than one weight for each model.
    """
    wrong = MIXING.problem(candidate)
    if wrong is not None:
        raise UsageError(f"logit fusion cannot do this candidate: {wrong}")
    return candidate.weights_by_model()


@dataclass(frozen=True)
class FusionFile:
    """One fusion as it is exported: ``fusion.yaml``.

    Attributes:
        fusion: the large model and the mode.
        base: folder of the small models' base.
        models: name to folder of each small model.
        weights: by model.
        dtype: that all models are loaded in, a safetensors word; None for each one's own.
    """

    fusion: LogitFusion
    base: Path
    models: Mapping[str, Path]
    weights: Mapping[str, float]
    dtype: str | None = None

    @classmethod
    def load(cls, path: Path) -> FusionFile:
        """Read a file, or the one in an exported folder.

        Raises:
            CampaignError: with file:line:column, what was got and what is allowed.
        """
        file = (path / FILE if path.is_dir() else path).expanduser()
        problems: list[UsageError] = []
        top = Section(load(read(file), str(file)), "", problems)
        try:
            found = _file(top, file.absolute().parent)
        except UsageError as problem:
            raise_all([*problems, problem])
            raise
        raise_all(problems)
        return found

    def text(self, spoken: Mapping[Path, str]) -> str:
        """The file's text; JSON is YAML too, and its numbers are the floats to the last bit.

        Args:
            spoken: how the file calls each folder.
        """
        folder, server = self.fusion.large, self.fusion.server
        large = dict(server or {}) if folder is None else spoken[folder]
        written: dict[str, Any] = {
            "logit_fusion": {"large": large, "mode": self.fusion.mode},
            "base": spoken[self.base],
            "models": {
                name: {"path": spoken[path], "weight": self.weights[name]}
                for name, path in self.models.items()
            },
        }
        if self.dtype is not None:
            written["dtype"] = self.dtype
        return json.dumps(written, indent=2) + "\n"


def _file(top: Section, folder: Path) -> FusionFile:
    meaning = "the large model and the mode; is this a file that `evomerge export` has written?"
    part = top.require("logit_fusion", lambda n: Section(n, "logit_fusion", top.problems), meaning)
    fusion = LogitFusion.read(part, folder)
    assert fusion is not None
    base = top.require("base", path_from(folder), "the folder of the small models' base")
    models = top.require("models", lambda n: _models(n, top), "the small models by name")
    where = path_from(folder)
    found = FusionFile(
        fusion,
        base,
        {name: one.require("path", where, "its folder") for name, one in models.items()},
        {name: one.require("weight", number(), "its weight") for name, one in models.items()},
        top.get("dtype", sections.dtype, None),
    )
    for one in models.values():
        one.finish()
    top.finish()
    return found


def _models(node: Node, top: Section) -> dict[str, Section]:
    if not isinstance(node.value, Mapping) or not node.value:
        raise CampaignError(
            "models is empty; at least one 'name: {path: ..., weight: ...}' is wanted",
            place=str(node.place),
        )
    return {
        name: Section(child, f"models.{name}", top.problems) for name, child in node.value.items()
    }
