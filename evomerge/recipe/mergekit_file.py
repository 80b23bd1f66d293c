"""A mergekit file: what it says, checked key by key, not yet bound to any model.

The keys are those of mergekit 0.1.5's documentation. Nothing is skipped in silence: a key that
has no say in the result is noted, one that has and is not supported is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from evomerge.errors import UsageError
from evomerge.recipe import sections
from evomerge.recipe.mergekit_methods import ABSENT, TRANSLATIONS, Param, Translation
from evomerge.recipe.mergekit_values import Value, value
from evomerge.recipe.reader import Section, error, got, integer, listing, nearest, text
from evomerge.recipe.strict_yaml import Node, Place

BASE = "base"
Values = Mapping[str, Value]
_NONE: Values = MappingProxyType({})


@dataclass(frozen=True)
class Source:
    """One input of a slice.

    Attributes:
        model: its name.
        layers: first layer and the one behind the last; None for all.
    """

    model: str
    layers: tuple[int, int] | None
    values: Values
    place: Place


@dataclass(frozen=True)
class Slice:
    """Layers of the output that are merged from the same inputs."""

    sources: tuple[Source, ...]
    values: Values
    place: Place


@dataclass(frozen=True)
class MergekitFile:
    """What a file says.

    Attributes:
        method: mergekit's name.
        based: whether there is a ``base_model``; its name is ``base``.
        models: name to where it lies, in the order of mention.
        slices: one without layers where the file lists ``models``.
        values: of the whole merge.
        own_tokenizer: whether the rows of embeddings are meant to be the base's tokens.
        notes: what is read and has no effect.
        place: of the method.
    """

    method: str
    based: bool
    models: Mapping[str, Path]
    slices: tuple[Slice, ...]
    values: Values
    dtype: str | None
    own_tokenizer: bool
    notes: tuple[str, ...]
    place: Place

    @property
    def translation(self) -> Translation:
        """What the method is here."""
        return TRANSLATIONS[self.method]


def is_mergekit(top: Section) -> bool:
    """Whether a file is mergekit's; a recipe of ours has no such key."""
    return any(key in top for key in ("merge_method", "base_model", "slices"))


def mergekit_file(top: Section, place_of: Callable[[Node], Path]) -> MergekitFile:
    """Read a file.

    Args:
        place_of: where a model lies, by what stands in the file.

    Raises:
        CampaignError: with file:line:column.
    """
    reader = _Reader(top, place_of)
    return reader.file()


class _Reader:
    """Lives for one file: names of models, notes."""

    def __init__(self, top: Section, place_of: Callable[[Node], Path]) -> None:
        self.top = top
        self.place_of = place_of
        self.models: dict[str, Path] = {}
        self.notes: list[str] = []
        self.method = ""

    def file(self) -> MergekitFile:
        top = self.top
        self.method = top.require("merge_method", _method, "one of mergekit's methods")
        translation = TRANSLATIONS[self.method]
        based = top.get("base_model", self._base, False)
        if translation.base == "required" and not based:
            raise error(f"{self.method} needs a base_model", top.node.keys["merge_method"])
        if translation.base == "none" and based:
            cause = f"{self.method} takes no base_model; leave it out"
            raise error(cause, top.node.keys["base_model"])
        slices = self._slices()
        values = top.get("parameters", self._values, _NONE)
        dtype = top.get("dtype", sections.dtype, None)
        self._unsupported()
        own_tokenizer = top.get("tokenizer_source", self._tokenizer_source, False)
        top.get("tokenizer", self._tokenizer, False)
        found = MergekitFile(
            method=self.method,
            based=based,
            models=self.models,
            slices=slices,
            values=values,
            dtype=top.get("out_dtype", sections.dtype, dtype),
            own_tokenizer=own_tokenizer or "tokenizer" in top,
            notes=tuple(dict.fromkeys(self.notes)),
            place=top.node.keys["merge_method"],
        )
        top.finish()
        return found

    def _slices(self) -> tuple[Slice, ...]:
        top = self.top
        if ("models" in top) == ("slices" in top):
            both = "models" in top
            cause = (
                "models and slices exclude each other" if both else "models or slices are missing"
            )
            raise error(cause, top.node.keys["slices"] if both else top.node.place)
        if "slices" in top:
            return top.require("slices", listing(self._slice, what="slices"), "")
        sources = top.require("models", listing(self._source, what="models"), "")
        return (self._whole(sources, {}, top.node.keys["models"]),)

    def _whole(self, sources: tuple[Source, ...], values: Values, place: Place) -> Slice:
        """A slice, once its inputs are known to be what the method takes."""
        self._check_inputs(sources, place)
        return Slice(sources, values, place)

    def _slice(self, node: Node) -> Slice:
        part = Section(node, "slices", self.top.problems)
        if "residual_weight" in part:
            cause = "residual_weight has no effect in mergekit, and none here; leave it out"
            raise error(cause, node.keys["residual_weight"])
        own_base = part.get("base_model", self._name, BASE)
        if own_base != BASE:
            cause = "a slice's base_model other than the file's is not supported"
            raise error(cause, node.keys["base_model"])
        what = "the inputs of the slice"
        sources = part.require("sources", listing(self._ranged, what="sources"), what)
        if not sources:
            raise error("a slice without sources", node)
        counts = {s.layers[1] - s.layers[0] for s in sources if s.layers is not None}
        if len(counts) > 1:
            raise error("all sources of a slice need the same number of layers", node)
        values = part.get("parameters", self._values, _NONE)
        part.finish()
        return self._whole(sources, values, node.place)

    def _ranged(self, node: Node) -> Source:
        return self._source(node, ranged=True)

    def _source(self, node: Node, *, ranged: bool = False) -> Source:
        part = Section(node, "sources" if ranged else "models", self.top.problems)
        model = part.require("model", self._name, "the folder of the model")
        layers = part.require("layer_range", _layers, "first and last layer") if ranged else None
        values = part.get("parameters", self._values, _NONE)
        part.finish()
        return Source(model, layers, values, node.place)

    def _check_inputs(self, sources: tuple[Source, ...], place: Place) -> None:
        names = [source.model for source in sources]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise error(f"the model {twice!r} is an input twice; mergekit takes it once", place)
        based = "base_model" in self.top
        if based and BASE not in names:
            if sources and sources[0].layers is not None:
                raise error("the base_model has to be one of the sources, with its layers", place)
            names = [BASE, *names]
        low, high = TRANSLATIONS[self.method].inputs
        if self.method == "nuslerp":
            low = high = 3 if based else 2
        if len(names) < low or (high is not None and len(names) > high):
            wanted = f"{low}" if low == high else f"at least {low}"
            beside = ", the base included" if based else ""
            raise error(
                f"{self.method} takes {wanted} inputs{beside}; here are {len(names)}", place
            )

    def _base(self, node: Node) -> bool:
        self.models[BASE] = self._path(node)
        return True

    def _name(self, node: Node) -> str:
        """The name of a model; the same place has the same name."""
        path = self._path(node)
        for name, known in self.models.items():
            if known == path:
                return name
        name = _word(path, self.models)
        self.models[name] = path
        return name

    def _path(self, node: Node) -> Path:
        if isinstance(node.value, Mapping):
            cause = "a model as a mapping is not supported; write its folder, or org/name@revision"
            raise error(cause, node)
        model, plus, adapter = text(node).partition("+")
        if not plus or Path(text(node)).exists():
            return self.place_of(node)
        if self.place_of(Node(model, node.place)) != self.models.get(BASE):
            cause = f"{got(node)}: a LoRA is read on top of the base_model alone"
            raise error(f"{cause}; merge it into {model!r} first", node)
        return self.place_of(Node(adapter, node.place))

    def _values(self, node: Node) -> Values:
        part = Section(node, "parameters", self.top.problems)
        known = {param.name: param for param in TRANSLATIONS[self.method].params}
        return dict(self._checked(part, known))

    def _checked(self, part: Section, known: Mapping[str, Param]) -> Iterator[tuple[str, Value]]:
        for key, child in part.node.value.items() if isinstance(part.node.value, Mapping) else ():
            if key not in known:
                raise error(
                    f"{self.method} has no parameter {key!r}{nearest(key, known)}",
                    part.node.keys[key],
                )
            param, found = known[key], value(child)
            if param.only is not None and found.numbers != {param.only}:
                raise error(_fixed(self.method, param), child)
            if param.idle:
                self.notes.append(f"{key} has no effect here")
            yield key, found

    def _unsupported(self) -> None:
        for key, cause in _REFUSED.items():
            if key in self.top:
                raise error(cause, self.top.node.keys[key])

    def _tokenizer_source(self, node: Node) -> bool:
        source = text(node)
        if source == "base":
            return True
        if source != "union" and self.models.get(BASE) == self._path(node):
            return True
        cause = f"{got(node)}: a merge has the tokenizer of its base; 'base' is supported"
        raise error(f"{cause}. Bring the models to one vocabulary with mergekit first", node)

    def _tokenizer(self, node: Node) -> bool:
        part = Section(node, "tokenizer", self.top.problems)
        part.get("source", self._tokenizer_source, True)
        for key in ("tokens", "pad_to_multiple_of"):
            if key in part:
                raise error(f"tokenizer.{key} is not supported; leave it out", node.keys[key])
        part.finish()
        return True


_REFUSED = {
    "modules": "models of several modules are not read from mergekit files; "
    "write a recipe with base, models and merge, whose groups take regular expressions",
    "chat_template": "the merge keeps the base's chat template; leave chat_template out and put "
    "chat_template.jinja into the folder that is written",
}


def _method(node: Node) -> str:
    name = text(node)
    if name in ABSENT:
        raise error(f"mergekit's method {name!r} is not here; {ABSENT[name]}", node)
    if name not in TRANSLATIONS:
        raise error(f"mergekit has no method {name!r}{nearest(name, TRANSLATIONS)}", node)
    return name


def _layers(node: Node) -> tuple[int, int]:
    ends = listing(integer(0), what="two layers")(node)
    if len(ends) != 2 or ends[0] >= ends[1]:
        wanted = "[first, behind the last] with at least one layer is wanted"
        raise error(f"the layer range {node.plain()} is none; {wanted}", node)
    return ends[0], ends[1]


def _fixed(method: str, param: Param) -> str:
    flag = {0.0: "false", 1.0: "true"}.get(param.only or 0.0)
    return f"{method} is merged only with {param.name}: {flag}; leave it out or use our own recipe"


def _word(path: Path, taken: Mapping[str, Path]) -> str:
    """A model's name: the last part of its path, numbered where that is taken."""
    stem = path.name.removesuffix(".safetensors")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.") or "model"
    choices = [name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))]
    return next(choice for choice in choices if choice not in taken and choice != BASE)


def refused(file: MergekitFile, cause: str, place: Place | None = None) -> UsageError:
    """An error about a file that is read."""
    return error(cause, place or file.place)
