"""The recipe file of one merge: a campaign's ``base``, ``models`` and ``merge``, with numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import CampaignError, UsageError
from evomerge.recipe import merge_section, sections
from evomerge.recipe.mergekit_file import MergekitFile, is_mergekit, mergekit_file
from evomerge.recipe.reader import Section, byte_count, model_path_from, path_from, raise_all
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.strict_yaml import Node, load, read

CAMPAIGN_KEYS = ("goals", "budget", "sampler", "items", "study", "export")


@dataclass(frozen=True)
class MergeRecipe:
    """One merge, without a search.

    Attributes:
        path: of the file, absolute.
        recipe: base, models, method, groups, pins.
        parameters: by name, as `BoundRecipe.plan` takes them; what is missing is what its pin
            says, or the method's default.
        dtype: of the merged tensors, a safetensors word; None keeps the base's.
        shard_size: in bytes; None takes the writer's own.
    """

    path: Path
    recipe: Recipe
    parameters: Mapping[str, float]
    dtype: str | None
    shard_size: int | None

    @classmethod
    def load(cls, path: Path | str) -> MergeRecipe:
        """Read a recipe file.

        Raises:
            CampaignError: with file:line:column, what was got and what is allowed.
            PluginError: on a method that nothing has.
        """
        file = Path(path).expanduser()
        problems: list[UsageError] = []
        top = Section(load(read(file), str(path)), "", problems)
        try:
            recipe = _read(top, file.absolute())
        except UsageError as problem:
            raise_all([*problems, problem])
            raise
        raise_all(problems)
        return recipe


def load_merge(path: Path | str) -> MergeRecipe | MergekitFile:
    """Read a recipe file, ours or mergekit's.

    Raises:
        CampaignError: with file:line:column, what was got and what is allowed.
        PluginError: on a method that nothing has.
    """
    file = Path(path).expanduser()
    problems: list[UsageError] = []
    top = Section(load(read(file), str(path)), "", problems)
    if not is_mergekit(top):
        return MergeRecipe.load(path)
    try:
        found = mergekit_file(top, _mergekit_path(file.absolute().parent))
    except UsageError as problem:
        raise_all([*problems, problem])
        raise
    raise_all(problems)
    return found


def _mergekit_path(folder: Path) -> Callable[[Node], Path]:
    """mergekit's paths start where it is started; what is not there may lie beside the file."""

    def parse(node: Node) -> Path:
        beside = path_from(folder)(node)
        here = path_from(Path.cwd())(node)
        if beside.exists() and not here.exists():
            return beside
        return model_path_from(Path.cwd(), bare=True)(node)

    return parse


def _read(top: Section, path: Path) -> MergeRecipe:
    _refuse_campaign(top)
    recipe, parameters = merge_section.merge_recipe(top, path.parent)
    merge = MergeRecipe(
        path=path,
        recipe=recipe,
        parameters=parameters,
        dtype=top.get("dtype", sections.dtype, None),
        shard_size=top.get("shard_size", byte_count, None),
    )
    top.finish()
    return merge


def _refuse_campaign(top: Section) -> None:
    found = [key for key in CAMPAIGN_KEYS if key in top]
    if found:
        cause = f"{found[0]!r} belongs to a campaign; a recipe has base, models, merge and dtype"
        place = str(top.node.keys[found[0]])
        raise CampaignError(cause, place=place, command=f"evomerge run {place.split(':')[0]}")
