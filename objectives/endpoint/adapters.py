"""The adapters that a llama.cpp server has loaded, and which of them is whose."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath, PureWindowsPath
from typing import Any

from evomerge.errors import UsageError
from evomerge.objectives.endpoint.failures import EndpointDownError

_PLACES = {
    "{model}": r"(?P<model>.+)",
    "{layer}": r"(?P<layer>\d{1,6})",
    "{layers}": r"(?P<first>\d{1,6})-(?P<last>\d{1,6})",
}


@dataclass(frozen=True)
class NamingRule:
    """How adapters' files are called: ``{model}.gguf``, ``{model}-{layer}.gguf``, or
    ``{model}-{layers}.gguf`` with the first and the last of several layers (``math-08-15.gguf``).

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
        places = sorted(re.findall(r"\{[^}]*\}", text))
        if places not in (["{model}"], ["{layer}", "{model}"], ["{layers}", "{model}"]):
            raise UsageError(_ADVICE.format(text))
        return cls(text)

    @property
    def by_layer(self) -> bool:
        """Whether layers, or bands of them, have adapters of their own."""
        return "{layer" in self.text

    def named(self, path: str) -> tuple[str, tuple[int | None, ...]] | None:
        """The model and the layers of an adapter's file; None if the rule does not fit it.

        A whole adapter's only layer is None.

        Raises:
            EndpointDownError: if the file's last layer comes before its first.
        """
        name = (PureWindowsPath(path) if "\\" in path else PurePath(path)).name
        parts = re.split(r"(\{[^}]*\})", self.text)
        found = re.fullmatch("".join(_PLACES.get(part, re.escape(part)) for part in parts), name)
        if found is None:
            return None
        if "{layers}" in self.text:
            layers = tuple(range(int(found["first"]), int(found["last"]) + 1))
            if not layers:
                raise EndpointDownError(
                    f"the adapter {name} is of layers {found['first']} to {found['last']}, none by "
                    f"{self.text!r}; name its first layer first"
                )
            return found["model"], layers
        return found["model"], (int(found["layer"]) if self.by_layer else None,)


_ADVICE = (
    'adapters is {!r:.60}; a file\'s name such as "{{model}}.gguf", "{{model}}-{{layer}}.gguf" or '
    '"{{model}}-{{layers}}.gguf" is wanted'
)


@dataclass(frozen=True)
class Adapters:
    """What ``GET /lora-adapters`` says.

    Attributes:
        ids: of all adapters, those of no model among them.
        files: their paths on the server, by id.
        owned: id by model and layer, None for a whole adapter; layers may share an id.
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
            model, layers = rule.named(path) or ("", ())
            for owner in ((model, layer) for layer in layers):
                if owned.setdefault(owner, number) != number:
                    raise EndpointDownError(
                        f"two adapters are called alike by {rule.text!r}: {files[owned[owner]]} "
                        f"and {path}"
                    )
        return cls(tuple(sorted(files)), files, owned)

    def scales(self, weights: Mapping[str, Any]) -> list[dict[str, float | int]]:
        """The field ``lora`` of a request: every adapter by id, 0 for those of no model.

        An empty list would mean the server's global scales, and an unknown id is ignored.

        Args:
            weights: by model, or by model and layer.

        Raises:
            EndpointDownError: if a weight has no adapter, or layers of one adapter differ.
        """
        found: dict[int, float] = {}
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
                number = self.owned[owner]
                if found.setdefault(number, float(weight)) != weight:
                    raise EndpointDownError(
                        f"layer {layer} of {model} is at {weight:g}, and other layers of "
                        f"{PurePath(self.files[number]).name} are at {found[number]:g}; cut the "
                        "campaign's `groups: {layers: ...}` as the files are"
                    )
        return [{"id": number, "scale": found.get(number, 0.0)} for number in self.ids]
