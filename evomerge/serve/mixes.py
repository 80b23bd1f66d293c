"""From a request's ``merge`` to a merge plan: the coefficients are a recipe without paths.

``merge`` is the section of that name in a recipe file, ``parameters`` included, so what was
measured by requests is written by ``evomerge merge`` from the same lines. No name in it is ever
a path, and regular expressions, which could be made to run for ever, are refused.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint.header import TensorEntry
from evomerge.errors import UsageError
from evomerge.merging.plan import MergePlan
from evomerge.recipe import merge_section
from evomerge.recipe.reader import Section, nearest, raise_all
from evomerge.recipe.recipe import BoundRecipe
from evomerge.recipe.strict_yaml import Node, Place

MOST_NODES = 100_000
MOST_DEPTH = 12
REMEMBERED = 64
"""Groupings that are kept bound to the base."""

_HERE = Place("request", 1, 1)


@dataclass(frozen=True)
class Mix:
    """What the model shall be.

    Attributes:
        digest: of everything that decides it; 64 hexadecimal digits.
        plan: None for the base.
    """

    digest: str
    plan: MergePlan | None


class Mixes:
    """Reads mixes for one base and its pool of models; safe to use from several threads.

    Args:
        tensors: of the base.
        models: names of the pool, in the order that is usual.
    """

    def __init__(self, tensors: Mapping[str, TensorEntry], models: tuple[str, ...]) -> None:
        self._tensors = tensors
        self._models = models
        self._bound: OrderedDict[str, BoundRecipe] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, merge: object, models: object = None) -> Mix:
        """The mix of a request.

        Args:
            merge: its ``merge``; None for the base.
            models: its ``models``, names in the order of arithmetic; None for the whole pool.

        Raises:
            UsageError: on anything that is no recipe for these models.
        """
        chosen = self._chosen(models)
        if merge is None:
            return Mix(_digest([]), None)
        if not isinstance(merge, dict):
            raise UsageError(f"merge is {merge!r:.60}; an object is wanted")
        groups = merge.get("groups")
        if isinstance(groups, dict) and groups.get("regex"):
            raise UsageError("groups.regex is not taken from requests; use layers and modules")
        problems: list[UsageError] = []
        top = Section(_node(self._recipe(merge, chosen)), "", problems)
        try:
            recipe, parameters = merge_section.merge_recipe(top, Path("/"))
        except UsageError as problem:
            raise_all([*problems, problem])
            raise
        raise_all(problems)
        frame = {key: value for key, value in merge.items() if key != "parameters"}
        key = _digest([chosen, frame])
        bound = self._known(key) or self._remember(key, recipe.bind(self._tensors))
        plan = bound.plan(recipe.method, parameters)
        return Mix(_digest([key, sorted(parameters.items())]), plan)

    def _recipe(self, merge: Mapping[str, Any], models: tuple[str, ...]) -> dict[str, Any]:
        return {"base": "base", "models": {name: name for name in models}, "merge": merge}

    def _chosen(self, models: object) -> tuple[str, ...]:
        if models is None:
            return self._models
        if not isinstance(models, list) or not models:
            raise UsageError(f"models is {models!r:.60}; a list of names is wanted")
        for name in models:
            if name not in self._models:
                raise UsageError(f"no model {name!r:.60}{nearest(str(name), self._models)}")
        if len(set(models)) < len(models):
            raise UsageError("a model is named twice")
        return tuple(models)

    def _known(self, key: str) -> BoundRecipe | None:
        with self._lock:
            if key in self._bound:
                self._bound.move_to_end(key)
            return self._bound.get(key)

    def _remember(self, key: str, bound: BoundRecipe) -> BoundRecipe:
        with self._lock:
            self._bound[key] = bound
            while len(self._bound) > REMEMBERED:
                self._bound.popitem(last=False)
        return bound


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _node(value: object) -> Node:
    """JSON as the recipe's readers take it; all of it stands in one place, the request."""
    left = MOST_NODES

    def made(part: object, depth: int) -> Node:
        nonlocal left
        left -= 1
        if left < 0 or depth > MOST_DEPTH:
            raise UsageError("merge holds too much, or nests too deeply")
        if isinstance(part, dict):
            inner = {str(key): made(child, depth + 1) for key, child in part.items()}
            return Node(inner, _HERE, dict.fromkeys(inner, _HERE))
        if isinstance(part, list):
            return Node(tuple(made(child, depth + 1) for child in part), _HERE)
        if part is None or isinstance(part, str | int | float | bool):
            return Node(part, _HERE)
        raise UsageError(f"merge holds {part!r:.60}")

    return made(value, 0)
