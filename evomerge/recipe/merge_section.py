"""The sections that make a recipe: base, models with their pins, method, groups, warm starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast, get_args

from evomerge.errors import CampaignError, UsageError
from evomerge.merging.method import Field
from evomerge.merging.plan import VOCABULARIES, Mask, Vocabulary
from evomerge.recipe import families, later
from evomerge.recipe.groups import MODULES, RESERVED, RULES, Grouping, Layers, Module, Rule
from evomerge.recipe.pins import Pin, check_ties, field_value, pin
from evomerge.recipe.reader import (
    Parser,
    Section,
    boolean,
    check_name,
    error,
    got,
    integer,
    listing,
    model_path_from,
    nearest,
    text,
    word,
)
from evomerge.recipe.recipe import Recipe, WarmStart
from evomerge.recipe.strict_yaml import Node, Place

DEFAULT_METHOD = "sparse_signed"
SPLIT_METHOD = "sparse_split"


def campaign_recipe(top: Section, folder: Path) -> Recipe:
    """The recipe of a campaign: ``base``, ``models``, ``merge`` and ``warm_start``."""
    recipe, merge = _recipe(top, folder)
    merge.finish()
    warm = listing(_warm_start(list(recipe.models), recipe.method), what="recipes")
    return replace(recipe, warm_starts=top.get("warm_start", warm, ()))


def merge_recipe(top: Section, folder: Path) -> tuple[Recipe, dict[str, float]]:
    """The recipe of one merge and its numbers: ``base``, ``models`` and ``merge``."""
    recipe, merge = _recipe(top, folder)
    models = list(recipe.models)
    none: dict[str, float] = {}
    given = merge.get("parameters", lambda node: parameters(node, recipe.fields, models), none)
    merge.finish()
    return recipe, given


def _recipe(top: Section, folder: Path) -> tuple[Recipe, Section]:
    _refuse_mergekit(top)
    base = top.require("base", model_path_from(folder), "the folder of the base model")
    models = top.require("models", lambda node: _models(node, top), "names and folders of models")
    merge = top.section("merge") or Section(Node({}, top.node.place), "merge", top.problems)
    if "method" in merge:
        method = merge.require("method", families.method, "")
    else:
        method = merge.get("method", families.method, DEFAULT_METHOD)
    method = merge.get("split_signs", _split_signs(method), method)
    recipe = Recipe(
        base=base,
        models={name: _model_path(part, folder) for name, part in models.items()},
        method=method,
        grouping=_grouping(merge.section("groups")),
        pins=_pins(merge, models, families.fields_of(method)),
        seed=merge.get("seed", integer(0), 0),
        vocabulary=cast(Vocabulary, merge.get("vocabulary", word(*VOCABULARIES), "refuse")),
        mask=merge.get("mask", _mask(method), "smooth"),
    )
    for part in models.values():
        part.finish()
    return recipe, merge


def parameters(
    node: Node, fields: tuple[Field, ...], models: list[str], skip: str | None = None
) -> dict[str, float]:
    """Numbers by parameter name from how people write them.

    ``{weight: 0.5}`` is every model's; ``{weight: {math: 0.3, code: 1}}`` each its own; a full
    name such as ``math/0-1.mlp/weight`` is itself.
    """
    declared = {f.name: f for f in fields}
    if not isinstance(node.value, Mapping):
        raise error(f"{got(node)} stands here; a mapping of names to numbers is wanted", node)
    found: dict[str, float] = {}
    for key, child in node.value.items():
        if key == skip:
            continue
        field = declared.get(key.rpartition("/")[2])
        if field is None:
            cause = f"unknown parameter {key!r}{nearest(key, declared)}"
            raise error(cause, node.keys[key])
        found |= _field_numbers(key, child, field, models)
    return found


def _field_numbers(key: str, node: Node, field: Field, models: list[str]) -> dict[str, float]:
    value = field_value(field)
    if "/" in key:
        return {key: value(node)}
    if field.per == "group":
        return {f"*/{key}": value(node)}
    if not isinstance(node.value, Mapping):
        return dict.fromkeys((f"{model}/*/{key}" for model in models), value(node))
    for model in node.value:
        if model not in models:
            raise error(f"no model {model!r}{nearest(model, models)}", node.keys[model])
    missing = [model for model in models if model not in node.value]
    if missing:
        raise error(f"{key} has no number for {', '.join(missing)}; give every model one", node)
    return {f"{model}/*/{key}": value(child) for model, child in node.value.items()}


def _refuse_mergekit(top: Section) -> None:
    found = [key for key in later.MERGEKIT if key in top]
    if found:
        ours = ", ".join(f"{key} is {later.MERGEKIT[key]!r} here" for key in found)
        cause = f"this is a mergekit file: `evomerge merge` reads it, a campaign has {ours}"
        raise error(cause, top.node.keys[found[0]])


def _models(node: Node, top: Section) -> dict[str, Section]:
    """Each model's own section; a bare path becomes one with nothing else."""
    if not isinstance(node.value, Mapping) or not node.value:
        raise error(f"models is {got(node)}; at least one 'name: folder' is wanted", node)
    found: dict[str, Section] = {}
    for name, child in node.value.items():
        check_name(name, "model name", node.keys[name])
        if name == "base":
            cause = "a model is named 'base'; that word is the base model's own"
            raise error(cause, node.keys[name])
        whole = child
        if not isinstance(child.value, Mapping):
            whole = Node({"path": child}, child.place, {"path": child.place})
        found[name] = Section(whole, f"models.{name}", top.problems)
    return found


def _model_path(part: Section, folder: Path) -> Path:
    return part.require("path", model_path_from(folder), "the folder of the model")


def _pins(
    merge: Section, models: Mapping[str, Section], fields: tuple[Field, ...]
) -> dict[str, Pin]:
    """Every field's pin, by ``MODEL/FIELD`` or ``FIELD``."""
    pins: dict[str, Pin] = {}
    for field in fields:
        whole = merge.get(field.name, pin(field), Pin())
        if field.per == "group":
            pins[field.name] = whole.over(Pin(shared=field.shared))
            continue
        ties: dict[str, str] = {}
        places: dict[str, Place] = {}
        for name, part in models.items():
            own = part.get(field.name, pin(field, model=name), Pin())
            pins[f"{name}/{field.name}"] = own.over(whole)
            if own.tie is not None:
                ties[name], places[name] = own.tie, _place(part, field.name)
        _check_tied(ties, field.name, places, models, merge.problems)
    return pins


def _check_tied(
    ties: Mapping[str, str],
    field: str,
    places: Mapping[str, Place],
    models: Mapping[str, Section],
    problems: list[UsageError],
) -> None:
    unknown = [name for name, other in ties.items() if other not in models]
    for name in unknown:
        cause = f"{field} is tied to {ties[name]!r}, which is no model{nearest(ties[name], models)}"
        problems.append(error(cause, places[name]))
    if unknown:
        return
    try:
        check_ties(ties, field, places)
    except CampaignError as problem:
        problems.append(problem)


def _split_signs(method: str) -> Parser[str]:
    """The method, or the one that is the same with the signs apart."""

    def parse(node: Node) -> str:
        if not boolean(node) or method == SPLIT_METHOD:
            return method
        if method != DEFAULT_METHOD:
            raise error(f"{method} cannot split signs; {DEFAULT_METHOD} can", node)
        return SPLIT_METHOD

    return parse


def _mask(method: str) -> Parser[Mask]:
    """What becomes of ties at a threshold, for a method that has thresholds."""

    def parse(node: Node) -> Mask:
        found = cast(Mask, word(*get_args(Mask))(node))
        if not families.follows_density_rule(method):
            raise error(f"{method} keeps nothing by the density rule, so it takes no mask", node)
        return found

    return parse


def _grouping(part: Section | None) -> Grouping:
    usual = Grouping()
    if part is None:
        return usual
    layers = part.get("layers", _layers, usual.layers)
    modules = part.get("modules", _modules, usual.modules)
    patterns = part.section("regex")
    regex = {} if patterns is None else _patterns(patterns)
    places = {} if patterns is None else {name: _place(patterns, name) for name in regex}
    if "layers" in part:
        places["layers"] = _place(part, "layers")
    each = part.get("per", word("band", "tensor"), "band") == "tensor"
    rules = {key: _rule(part, key, each) for key in _RULED}
    if each:
        _refuse_bands(part)
    part.finish()
    return Grouping(layers, modules, regex, **rules, each=each, places=places)


def _rule(part: Section, key: str, each: bool) -> Rule:
    """Where every tensor is a group, there is no band to follow."""
    allowed = [rule for rule in RULES if not (each and rule == "follow")]
    default: str = "own" if each else "follow"
    return cast(Rule, part.get(key, word(*allowed), default))


def _refuse_bands(part: Section) -> None:
    for key in ("layers", "modules"):
        if key in part:
            cause = f"{key} makes bands; with 'per: tensor' every tensor is a group of its own"
            part.problems.append(error(cause, part.node.keys[key]))


_RULED = ("embeddings", "norms", "head")


def _layers(node: Node) -> Layers:
    allowed = "a number of bands, 'each', 'all' or bands such as [[0, 3], [4, 11]]"
    if node.value == "all" or node.value == "each":
        return cast(Layers, node.value)
    if isinstance(node.value, int) and not isinstance(node.value, bool) and node.value >= 1:
        return node.value
    if not isinstance(node.value, tuple) or not node.value:
        raise error(f"{got(node)} stands here; {allowed} are wanted", node)
    bands = tuple(_band(child, allowed) for child in node.value)
    ordered = sorted(zip(bands, node.value, strict=True), key=lambda pair: pair[0])
    for (before, _), (after, child) in pairwise(ordered):
        if after[0] <= before[1]:
            raise error(f"the bands {list(before)} and {list(after)} overlap", child)
    return tuple(band for band, _ in ordered)


def _band(node: Node, allowed: str) -> tuple[int, int]:
    if not isinstance(node.value, tuple) or len(node.value) != 2:
        raise error(f"{got(node)} stands here; {allowed} are wanted", node)
    low, high = (integer(0)(end) for end in node.value)
    if low > high:
        raise error(f"the band [{low}, {high}] is upside down; the first layer comes first", node)
    return low, high


def _modules(node: Node) -> tuple[Module, ...]:
    found = listing(word(*MODULES), what="module kinds")(node)
    if len(set(found)) != len(found):
        raise error("a kind of module is named twice", node)
    return cast(tuple[Module, ...], found)


def _patterns(part: Section) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in part.keys:
        try:
            check_name(name, "group name", part.node.keys[name])
            if name in RESERVED:
                cause = f"a group is named {name!r}; that word has a meaning of its own"
                raise error(cause, part.node.keys[name])
        except CampaignError as problem:
            part.problems.append(problem)
        pattern = part.get(name, _pattern, None)
        if pattern is not None:
            found[name] = pattern
    return found


def _pattern(node: Node) -> str:
    value = text(node)
    try:
        re.compile(value)
    except re.error as problem:
        raise error(f"{got(node)} is no regular expression: {problem}", node) from None
    return value


def _warm_start(models: list[str], method: str) -> Parser[WarmStart]:
    def parse(node: Node) -> WarmStart:
        if not isinstance(node.value, Mapping):
            raise error(
                f"{got(node)} stands here; a recipe such as {{weight: 0.5}} is wanted", node
            )
        own = families.method(node.value["method"]) if "method" in node.value else method
        fields = families.fields_of(own)
        return WarmStart(own, parameters(node, fields, models, skip="method"), node.place)

    return parse


def _place(part: Section, key: str) -> Place:
    items: Any = part.node.value
    place: Place = items[key].place
    return place
