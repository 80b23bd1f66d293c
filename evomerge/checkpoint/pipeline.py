"""Pipelines as diffusers writes them: a folder of components, each with its own weights.

The tensors of a pipeline are those of its components, with the component's name and a slash
before: ``unet/conv_in.weight``. Components without weights (schedulers, tokenizers) are files that
go along.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evomerge.checkpoint.folder import PICKLES, confined, is_side_file, weight_files
from evomerge.checkpoint.names import quoted, shown
from evomerge.errors import CheckpointError

MODEL_INDEX = "model_index.json"


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is one."""
    return (folder / MODEL_INDEX).is_file()


def components(folder: Path) -> tuple[str, ...]:
    """The components that have weights, by name.

    Raises:
        CheckpointError: there is none, or the weights of one are not safetensors.
    """
    found = tuple(part.name for part in _folders(folder) if _has_weights(part))
    if not found:
        cause = f"has a {MODEL_INDEX}, but no component with .safetensors weights"
        raise CheckpointError(cause, place=shown(folder))
    for name in found:
        weight_files(folder / name)
    return found


def pipeline_side_files(folder: Path) -> tuple[Path, ...]:
    """What goes along with the weights: the index, licences, and the small files of components.

    Raises:
        CheckpointError: one of them is a link that leaves its folder.
    """
    found = [path for path in sorted(folder.iterdir()) if is_side_file(path)]
    index = folder / MODEL_INDEX
    for part in _folders(folder):
        found += [path for path in sorted(part.iterdir()) if _goes_along(path)]
    for path in (index, *found):
        confined(path.parent, path.name)
    return (index, *found)


def _folders(folder: Path) -> Iterator[Path]:
    for part in sorted(folder.iterdir()):
        if part.is_dir() and not part.name.startswith("."):
            if part.is_symlink():
                cause = f"the component {quoted(part.name)} is a link; put the folder itself there"
                raise CheckpointError(cause, place=shown(folder))
            yield part


def _has_weights(part: Path) -> bool:
    return any(path.suffix in (".safetensors", *PICKLES) for path in part.iterdir())


def _goes_along(path: Path) -> bool:
    """Configs and vocabularies; an index names the shards of the input, so it does not."""
    return is_side_file(path) or (
        path.suffix == ".json" and path.is_file() and not path.name.endswith(".index.json")
    )
