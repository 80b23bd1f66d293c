"""What a tensor is, read off its name: its layer, and its kind within the layer.

The layer is the first whole number between the dots (``model.layers.7.mlp.up_proj.weight``); what
stands before it is the stack. A model with one stack keeps its own layer numbers; the layers of
several stacks (an encoder and a decoder, say) are numbered through, one stack after the other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["attention", "mlp", "other", "norm", "embedding", "head"]

_NORM = re.compile(r"norm|^ln(_|\d|$)|^bn\d*$")
_EMBEDDING = re.compile(r"embed|^wte$|^wpe$|^shared$")
_HEAD = re.compile(
    r"^(lm_head|heads?|embed_out|output_projection|classifier|score|qa_outputs|cls)$"
)
_ATTENTION = re.compile(r"attn|attention|^(q|k|v|o|qkv|query|key|value)(_proj)?$")
_MLP = re.compile(
    r"mlp|ffn|feed_?forward|expert|moe|densereludense|dense_h_to|dense_4h"
    r"|^fc\d*$|^(gate|up|down)_proj$|^w[123io]$|^(intermediate|output)$"
)


@dataclass(frozen=True)
class Part:
    """One tensor's place in the model.

    Attributes:
        layer: its number; None outside the layers.
        first: whether a tensor outside the layers stands before them (embeddings), not after.
    """

    kind: Kind
    layer: int | None
    first: bool = False


def anatomy(names: Collection[str]) -> dict[str, Part]:
    """The part that each tensor is, in natural order of the names (layer 2 before layer 10)."""
    ordered = sorted(names, key=natural)
    stacks = {name: _stack(name.split(".")) for name in ordered}
    numbers = _layer_numbers([stack for stack in stacks.values() if stack])
    return {name: _part(name.split("."), stacks[name], numbers) for name in ordered}


def depths(names: Collection[str]) -> dict[str, float]:
    """Where each tensor stands: from 0 in the first layer to 1 in the last; 0 outside them.

    With one layer that is 0.
    """
    parts = anatomy(names)
    layers = sorted({part.layer for part in parts.values() if part.layer is not None})
    place = {layer: i / max(1, len(layers) - 1) for i, layer in enumerate(layers)}
    return {n: 0.0 if p.layer is None else place[p.layer] for n, p in parts.items()}


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sorting key: numbers by size, encoders before decoders."""
    pieces = re.split(r"(\d+)", name.replace("encoder", "\0encoder"))
    return [(0, int(p), "") if p.isdecimal() and p.isascii() else (1, 0, p) for p in pieces]


def layer_of(name: str) -> tuple[str, int, str] | None:
    """What stands before a tensor's layer number, the number, and the rest; None outside layers."""
    words = name.split(".")
    stack = _stack(words)
    if stack is None:
        return None
    before = len(stack[0])
    start, rest = words[:before], words[before + 1 :]
    return "".join(f"{w}." for w in start), stack[1], "".join(f".{w}" for w in rest)


_Stack = tuple[tuple[str, ...], int]


def _stack(words: list[str]) -> _Stack | None:
    """The stack's name and the index within it; None outside the layers."""
    at = next((i for i, word in enumerate(words) if word.isascii() and word.isdecimal()), None)
    if at is None or len(words[at]) > 6 or _outside(words[:at]):
        return None
    return tuple(words[:at]), int(words[at])


def _outside(words: list[str]) -> bool:
    return any(_EMBEDDING.search(word.lower()) or _HEAD.search(word.lower()) for word in words)


def _layer_numbers(stacks: list[_Stack]) -> Mapping[_Stack, int]:
    names = list(dict.fromkeys(name for name, _ in stacks))
    if len(names) == 1:
        return {stack: stack[1] for stack in stacks}
    ordered = [stack for name in names for stack in sorted({s for s in stacks if s[0] == name})]
    return {stack: number for number, stack in enumerate(ordered)}


def _part(words: list[str], stack: _Stack | None, numbers: Mapping[_Stack, int]) -> Part:
    if stack is not None:
        return Part(_inner_kind(words[len(stack[0]) + 1 :]), numbers[stack])
    lowered = [word.lower() for word in words]
    embedded = any(_EMBEDDING.search(word) and not _HEAD.search(word) for word in lowered)
    if any(_NORM.search(word) for word in lowered):
        return Part("norm", None, first=embedded)
    if embedded:
        return Part("embedding", None, first=True)
    if lowered[0] == "output" or any(_HEAD.search(word) for word in lowered):
        return Part("head", None)
    return Part(_inner_kind(words), None)


def _inner_kind(words: list[str]) -> Kind:
    lowered = [word.lower() for word in words]
    if any(_NORM.search(word) for word in lowered):
        return "norm"
    for word in lowered:
        if _ATTENTION.search(word):
            return "attention"
        if _MLP.search(word):
            return "mlp"
    return "other"
