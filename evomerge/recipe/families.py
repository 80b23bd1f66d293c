"""The families of plug-ins that a campaign file names, looked up without their libraries.

Samplers and objectives live in rooms above this one; they are found by name, like any plug-in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.errors import CampaignError, PluginError
from evomerge.interfaces import Objective, Sampler, SearchProblem
from evomerge.merging.lines import PREFIX
from evomerge.merging.method import Field
from evomerge.merging.registry import METHODS, method_named
from evomerge.recipe.reader import text
from evomerge.recipe.specs import ObjectiveSpec, SamplerSpec
from evomerge.recipe.strict_yaml import Node
from evomerge.registry import Registry, unknown

_FAMILIES = Registry(
    "family",
    {
        "sampler": "evomerge.search.registry:check_name",
        "sampler maker": "evomerge.search.registry:make_sampler",
        "objective": "evomerge.objectives.registry:OBJECTIVES",
        "objective maker": "evomerge.objectives.registry:make",
        "large model behind an API": "evomerge.objectives.remote_options:check",
    },
)

_LATER_METHODS = re.compile(r"passthrough|arcee_fusion|metagpt")
_LATER_OBJECTIVES = {
    "http": "template asks any JSON API, openai any OpenAI-compatible server",
    "http_chat": "openai asks any OpenAI-compatible server, template any JSON API",
}


def fields_of(method: str) -> tuple[Field, ...]:
    """The parameters of a merge method; PluginError if nothing has this name."""
    return tuple(field for field in method_named(method).fields if field.searched)


def follows_density_rule(method: str) -> bool:
    """Whether a method keeps the largest entries by `evomerge.merging.magnitudes`."""
    found = method_named(method)
    usual = {f.name: (f.default,) if f.per == "model" else f.default for f in found.fields}
    return found.densities(usual) is not None


def method(node: Node) -> str:
    """The name of a merge method, perhaps with the prefix of LiNeS before it."""
    name = text(node)
    if name == PREFIX[:-1]:
        cause = f"{name} scales another method by depth; write {PREFIX}sparse_signed, say"
        raise CampaignError(cause, place=str(node.place))
    if name.startswith(PREFIX):
        return PREFIX + method(replace(node, value=name.removeprefix(PREFIX)))
    later = {name: "it comes with a later version"} if _LATER_METHODS.fullmatch(name) else {}
    return _named(node, "method", later, METHODS)


def objective(node: Node) -> str:
    """The name of an objective's type."""
    registry: Registry = _FAMILIES.load("objective")
    return _named(node, "objective", _LATER_OBJECTIVES, registry)


def sampler(node: Node) -> str:
    """The name of a sampler."""
    check: Callable[[str], None] = _FAMILIES.load("sampler")
    name = text(node)
    try:
        check(name)
    except PluginError as error:
        raise PluginError(error.cause, place=str(node.place)) from None
    return name


def make_sampler(spec: SamplerSpec, problem: SearchProblem) -> Sampler:
    """The sampler itself; imports its library.

    Raises:
        UsageError: if it cannot work on this problem, or an option is wrong.
    """
    make: Callable[..., Sampler] = _FAMILIES.load("sampler maker")
    return make(spec.name, problem, spec.options)


def make_objective(spec: ObjectiveSpec, folder: Path) -> Objective:
    """The objective itself, which reads its items.

    Raises:
        UsageError: if its options or items are not in order.
    """
    make: Callable[..., Objective] = _FAMILIES.load("objective maker")
    return make(spec.type, spec.options, folder=folder)


def check_server(options: Mapping[str, Any]) -> None:
    """Some options of a large model behind an API.

    Raises:
        UsageError: if one is not in order, or would hold a secret.
    """
    check: Callable[[Mapping[str, Any]], None] = _FAMILIES.load("large model behind an API")
    check(options)


def _named(node: Node, family: str, later: Mapping[str, str], registry: Registry) -> str:
    name = text(node)
    if name in registry.own:
        return name
    known = registry.names()
    if name in later and name not in known:
        cause = f"the {family} {name!r} is not in this version yet: {later[name]}"
        raise CampaignError(cause, place=str(node.place))
    if name not in known:
        raise PluginError(unknown(family, name, known), place=str(node.place))
    return name
