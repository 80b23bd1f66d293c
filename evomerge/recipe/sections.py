"""The sections of a campaign or recipe file, each read into its record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from evomerge.checkpoint.dtypes import parse_dtype
from evomerge.errors import CampaignError, UsageError
from evomerge.goals import Direction, Goal
from evomerge.recipe import families
from evomerge.recipe.reader import (
    Parser,
    Section,
    amount,
    byte_count,
    error,
    got,
    integer,
    nearest,
    number,
    path_from,
    text,
    word,
)
from evomerge.recipe.specs import (
    Budget,
    ExportSpec,
    ItemSplits,
    ObjectiveSpec,
    Racing,
    SamplerSpec,
)
from evomerge.recipe.strict_yaml import Node

_METRIC_FORBIDS = frozenset(" =,/\t")


def options(node: Node) -> Any:
    """Free options of a plug-in: anything that JSON can hold."""
    if isinstance(node.value, Mapping):
        return {key: options(child) for key, child in node.value.items()}
    if isinstance(node.value, tuple):
        return [options(child) for child in node.value]
    if isinstance(node.value, float) and not math.isfinite(node.value):
        raise error(f"{got(node)} stands here; options are finite numbers", node)
    return node.value


def goals(node: Node, problems: list[UsageError]) -> dict[str, tuple[Goal, ObjectiveSpec]]:
    """All goals by metric, in file order."""
    if not isinstance(node.value, tuple) or not node.value:
        raise error(f"goals is {got(node)}; a list of at least one goal is wanted", node)
    found: dict[str, tuple[Goal, ObjectiveSpec]] = {}
    for i, item in enumerate(node.value):
        part = Section(item, f"goals[{i}]", problems)
        goal, spec = _goal(part)
        if goal.metric in found:
            cause = f"two goals are named {goal.metric!r}; every metric has one goal"
            problems.append(error(cause, _value(part, "metric")))
        found[goal.metric] = (goal, spec)
        part.finish()
    return found


def _goal(part: Section) -> tuple[Goal, ObjectiveSpec]:
    metric = part.require("metric", _metric, "the goal's name, such as 'accuracy'")
    goal = Goal(
        metric=metric,
        direction=cast(Direction, part.get("direction", word("maximize", "minimize"), "maximize")),
        limit=part.get("limit", number(), None),
        reference=part.get("reference", number(), None),
    )
    meaning = "what measures it, such as {type: python, function: my.py:score}"
    return goal, part.require("objective", _objective(part), meaning)


def _metric(node: Node) -> str:
    value = text(node)
    if _METRIC_FORBIDS & set(value):
        raise error(f"{got(node)} stands here; a metric's name has no space, comma, = or /", node)
    return value


def _objective(goal: Section) -> Parser[ObjectiveSpec]:
    def parse(node: Node) -> ObjectiveSpec:
        part = Section(node, goal.path("objective"), goal.problems)
        kind = part.require("type", families.objective, "the objective, such as 'python'")
        rest = {key: options(child) for key, child in _items(node).items() if key != "type"}
        return ObjectiveSpec(kind, rest, node.place)

    return parse


def sampler(node: Node) -> SamplerSpec:
    """A sampler's name, or a mapping with its name and options."""
    if not isinstance(node.value, Mapping):
        return SamplerSpec(families.sampler(node))
    part = Section(node, "sampler", [])
    name = part.require("name", families.sampler, "the sampler, such as 'auto'")
    rest = {key: options(child) for key, child in node.value.items() if key != "name"}
    return SamplerSpec(name, rest)


def budget(top: Section) -> Budget:
    """Trials, hours, requests, tokens, money; at least one of them."""
    example = "give trials, hours, or both, such as {trials: 100}"
    part = top.section("budget")
    if part is None and "budget" in top:
        return Budget()
    if part is None:
        top.problems.append(error(f"budget is missing: {example}", top.node))
        return Budget()
    found = Budget(
        trials=part.get("trials", integer(1), None),
        hours=part.get("hours", number(above=0), None),
        requests=part.get("requests", amount, None),
        tokens=part.get("tokens", amount, None),
        money=part.get("money", number(above=0), None),
    )
    if not any(key in part for key in ("trials", "hours", "requests", "tokens", "money")):
        part.problems.append(error(f"the budget has no end: {example}", part.node))
    part.finish()
    return found


def items(part: Section | None) -> ItemSplits:
    """Shares that sum to 100 %, or counts."""
    if part is None:
        return ItemSplits()
    default = ItemSplits()
    shares = [
        part.get("search", _share, (0.6, False)),
        part.get("selection", _share, (0.2, False)),
        part.get("test", _share, (0.2, False)),
    ]
    seed = part.get("seed", integer(0), 0)
    before = len(part.problems)
    part.finish()
    keys = [key for key in ("search", "selection", "test") if key in part]
    if before != len(part.problems) or not keys:
        return ItemSplits(seed=seed)
    if len(keys) < 3:
        missing = ", ".join(key for key in ("search", "selection", "test") if key not in part)
        cause = f"items lacks {missing}; give all three parts, 0% for one that is not wanted"
        part.problems.append(error(cause, part.node))
        return default
    return _splits(part, shares, seed)


def _splits(part: Section, shares: list[tuple[float, bool]], seed: int) -> ItemSplits:
    (search, _), (selection, _), (test, _) = shares
    counted = [count for _, count in shares]
    splits = ItemSplits(search, selection, test, all(counted), seed)
    total = search + selection + test
    if search == 0:
        cause = "items.search is 0; the search needs items"
        part.problems.append(error(cause, _value(part, "search")))
    elif any(count and size > 0 for size, count in shares) and not all(
        count or size == 0 for size, count in shares
    ):
        cause = "items mixes counts and shares; give three counts, or three shares such as 60%"
        part.problems.append(error(cause, part.node))
    elif not all(counted) and abs(total - 1) > 1e-6:
        cause = f"the shares of items sum to {100 * total:g} %; 100 % is wanted"
        part.problems.append(error(cause, part.node))
    return splits


def _share(node: Node) -> tuple[float, bool]:
    """``60%`` or 0.6 as (0.6, False); a whole number as (count, True)."""
    value = node.value
    if isinstance(value, str) and value.endswith("%"):
        try:
            share = float(value[:-1]) / 100
        except ValueError:
            share = math.nan
        if 0 <= share <= 1:
            return share, False
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return float(value), True
    elif isinstance(value, float) and 0 <= value <= 1:
        return value, False
    raise error(f"{got(node)} stands here; a share such as 60% or a count is wanted", node)


def racing(part: Section | None) -> Racing | None:
    """How candidates race; not at all where the section is missing."""
    if part is None:
        return None
    default = Racing()
    found = Racing(
        first=part.get("first", _fraction, default.first),
        error=part.get("error", _fraction, default.error),
        tolerance=part.get("tolerance", number(low=0), default.tolerance),
    )
    part.finish()
    return found


def _fraction(node: Node) -> float:
    """``12%`` or 0.12, between 0 and 1."""
    share, counted = _share(node)
    if counted or not 0 < share < 1:
        raise error(f"{got(node)} stands here; a share between 0% and 100% is wanted", node)
    return share


def export(part: Section | None, folder: Path) -> ExportSpec | None:
    """Where finished merges go; nothing where the section is missing."""
    if part is None:
        return None
    to = part.require("to", path_from(folder), "the folder that gets the merges")
    which = part.get("which", word("front"), "front")
    spec = ExportSpec(
        to=to,
        which=cast(Literal["front"], which),
        dtype=part.get("dtype", dtype, None),
        shard_size=part.get("shard_size", byte_count, ExportSpec(to).shard_size),
        form=cast(Literal["full", "lora"], part.get("form", word("full", "lora"), "full")),
        rank=part.get("rank", integer(1), None),
    )
    if spec.rank is not None and spec.form == "full":
        raise error("rank is of an adapter; it needs form: lora", part.node.keys["rank"])
    part.finish()
    return spec


def dtype(node: Node) -> str:
    """A float dtype as people write it, as its safetensors word."""
    value = text(node)
    try:
        return parse_dtype(value)
    except UsageError:
        known = ("bfloat16", "float16", "float32", "float64")
        raise error(f"{got(node)} stands here{nearest(value, known)}", node) from None


def loader(node: Node) -> str:
    """``file.py:function`` or ``package.module:function``."""
    value = text(node)
    where, colon, function = value.rpartition(":")
    if not (colon and where and function.isidentifier()):
        raise error(f"{got(node)} stands here; file.py:function is wanted", node)
    return value


def mirror(node: Node) -> str:
    """A database URL without a password, or ``$NAME``."""
    value = text(node)
    if value.startswith("$") and value[1:].isidentifier():
        return value
    scheme, separator, rest = value.partition("://")
    if not separator or not scheme:
        raise error(f"{got(node)} stands here; a URL such as sqlite:///mirror.db is wanted", node)
    if ":" in rest.partition("@")[0] and "@" in rest:
        cause = "a password stands in the URL; put the URL into the environment and write $NAME"
        raise error(cause, node)
    return value


def _items(node: Node) -> Mapping[str, Node]:
    if not isinstance(node.value, Mapping):
        raise CampaignError(f"{got(node)} stands here; a mapping is wanted", place=str(node.place))
    return node.value


def _value(part: Section, key: str) -> Node:
    return _items(part.node)[key]
