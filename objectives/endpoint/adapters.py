"""The adapters that a llama.cpp server has loaded, and which of them is whose."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath, PureWindowsPath
from typing import Any

from evomerge.errors import UsageError
from evomerge.objectives.endpoint.failures import EndpointDownError

_PLACE = re.compile(r"\{(model|layer)\}")


@dataclass(frozen=True)
class NamingRule:
    """How adapters' files are called: ``{model}.gguf``, ``{model}-{layer}.gguf``.

    Attributes:
        text: as the campaign has it; a layer may be written with leading zeros.
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> NamingRule:
        """A rule from its text.

        Raises:
            UsageError: if it does not name ``{model}`` once, or something else in braces.
        """
        places = re.findall(r"\{[^}]*\}", text)
        if places.count("{model}") != 1 or len(places) > 2 or not _PLACE.search(text):
            raise UsageError(_ADVICE.format(text))
        if any(place not in ("{model}", "{layer}") for place in places):
            raise UsageError(_ADVICE.format(text))
        if len(places) == 2 and "{layer}" not in places:
            raise UsageError(_ADVICE.format(text))
        return cls(text)

    @property
    def by_layer(self) -> bool:
        """Whether each layer has an adapter of its own."""
        return "{layer}" in self.text

    def named(self, path: str) -> tuple[str, int | None] | None:
        """The model, and the layer, of an adapter's file; None if the rule does not fit it."""
        name = (PureWindowsPath(path) if "\\" in path else PurePath(path)).name
        pattern = "".join(
            {"{model}": "(?P<model>.+)", "{layer}": r"(?P<layer>\d+)"}.get(part, re.escape(part))
            for part in re.split(r"(\{model\}|\{layer\})", self.text)
        )
        found = re.fullmatch(pattern, name)
        if found is None:
            return None
        return found["model"], int(found["layer"]) if self.by_layer else None


_ADVICE = (
    'adapters is {!r:.60}; a file\'s name such as "{{model}}.gguf" or "{{model}}-{{layer}}.gguf" '
    "is wanted"
)


@dataclass(frozen=True)
class Adapters:
    """What ``GET /lora-adapters`` says.

    Attributes:
        ids: of all adapters, those of no model among them.
        files: their paths on the server, by id.
        owned: id by model and layer, None for a whole adapter.
    """

    ids: tuple[int, ...]
    files: Mapping[int, str]
    owned: Mapping[tuple[str, int | None], int]

    @classmethod
    def read(cls, answer: Any, rule: NamingRule) -> Adapters:
        """From the server's answer.

        Raises:
            EndpointDownError: if it is no list of adapters, or two have the same owner.
        """
        try:
            files = {int(one["id"]): str(one["path"]) for one in answer}
        except (KeyError, TypeError, ValueError):
            raise EndpointDownError(
                f"/lora-adapters is no list of adapters: {answer!r:.120}"
            ) from None
        owned: dict[tuple[str, int | None], int] = {}
        for number, path in files.items():
            owner = rule.named(path)
            if owner is not None and owned.setdefault(owner, number) != number:
                raise EndpointDownError(
                    f"two adapters are called alike by {rule.text!r}: {files[owned[owner]]} and "
                    f"{path}"
                )
        return cls(tuple(sorted(files)), files, owned)

    def scales(self, weights: Mapping[str, Any]) -> list[dict[str, float | int]]:
        """The field ``lora`` of a request: every adapter by id, 0 for those of no model.

        An empty list would mean the server's global scales, and an unknown id is ignored.

        Args:
            weights: by model, or by model and layer.

        Raises:
            EndpointDownError: if a weight has no adapter.
        """
        found = dict.fromkeys(self.ids, 0.0)
        for model, given in weights.items():
            by_layer = given if isinstance(given, Mapping) else {None: given}
            for layer, weight in by_layer.items():
                owner = (model, None if layer is None else int(layer))
                if owner not in self.owned:
                    what = model if layer is None else f"layer {layer} of {model}"
                    names = ", ".join(PurePath(path).name for path in self.files.values())
                    raise EndpointDownError(
                        f"the server has no adapter for {what}; it has {names or 'none'}. Load it "
                        "by --lora, or say by `adapters` how the files are called"
                    )
                found[self.owned[owner]] = float(weight)
        return [{"id": number, "scale": scale} for number, scale in found.items()]
