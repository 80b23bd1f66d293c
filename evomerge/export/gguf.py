"""LoRA adapters as llama.cpp's server loads them: GGUF files, whole or one for each band of layers.

The server takes one scale for each loaded file. Adapters cut by layers therefore make weights per
layer, and at one scale for all the files of an adapter they sum up to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evomerge.checkpoint.adapter import Adapter, Change, LowRank
from evomerge.checkpoint.files import staged_folder
from evomerge.checkpoint.gguf_names import LlamaNames
from evomerge.checkpoint.gguf_writer import write_gguf_adapter
from evomerge.checkpoint.models import open_model
from evomerge.checkpoint.names import listed, shown
from evomerge.errors import UsageError
from evomerge.recipe.anatomy import layer_of
from evomerge.recipe.groups import equal_bands

Split = int | Literal["each"] | None
"""A number of bands, as ``groups: {layers: N}`` cuts them; a file for each layer; or none."""


@dataclass(frozen=True)
class AdapterFile:
    """One written file.

    Attributes:
        layers: the first and the last one that it covers; None for the whole adapter.
        modules: how many it changes; 0 where the adapter leaves these layers alone.
    """

    model: str
    name: str
    layers: tuple[int, int] | None
    modules: int


def naming(split: Split) -> str:
    """How the files are called, as `evomerge.objectives.llama_server`'s ``adapters`` says it."""
    if split is None:
        return "{model}.gguf"
    return "{model}-{layer}.gguf" if split == "each" else "{model}-{layers}.gguf"


def write_gguf(
    base: Path, adapters: Mapping[str, Path], target: Path, *, split: Split
) -> list[AdapterFile]:
    """Write adapters into a folder.

    Args:
        base: a folder with the base's config.json.
        adapters: folders by name.
        target: must not exist.

    Returns:
        What was written, adapter by adapter, from the first layer on.

    Raises:
        UsageError: if the extra is missing, the base's architecture is not known, a model is no
            adapter, or GGUF or the split cannot express one.
        CheckpointError: if an adapter is damaged, or of another base.
    """
    names = LlamaNames.of(base)
    bands = _bands(names.layers, split)
    written: list[AdapterFile] = []
    with staged_folder(target) as folder:
        for model, path in adapters.items():
            with open_model(path) as opened:
                if not isinstance(opened, Adapter):
                    raise UsageError("is a whole model; an adapter is wanted", place=shown(path))
                modules = _modules(opened, names)
                for band, chosen in _shared_out(opened, modules, bands):
                    file = _file(model, band, names.layers, split)
                    write_gguf_adapter(folder / file, opened, chosen, names)
                    ends = None if band is None else (band[0], band[-1])
                    written.append(AdapterFile(model, file, ends, len(chosen)))
    return written


def _bands(layers: int, split: Split) -> list[tuple[int, ...]] | None:
    """The layers of each file; None for whole adapters."""
    if split is None:
        return None
    count = layers if split == "each" else split
    if not 1 <= count <= layers:
        raise UsageError(f"{count} bands are asked of {layers} layers; 1 to {layers}, or each")
    return equal_bands(range(layers), count)


def _modules(adapter: Adapter, names: LlamaNames) -> dict[str, LowRank]:
    """What the adapter changes, by llama.cpp's name.

    Raises:
        UsageError: if that is more than low-rank factors, or llama.cpp has no such tensor.
    """
    found: dict[str, LowRank] = {}
    strange: list[str] = []
    for name, change in adapter.changes.items():
        weights = _plain(change)
        known = None if weights is None else names.tensor(weights.module)
        if weights is None or known is None:
            strange.append(name)
        else:
            found[known] = weights
    if strange:
        raise UsageError(
            f"what it does to {listed(strange)} cannot be said in a GGUF adapter, which holds the "
            "factors of linear layers and embeddings alone: no bias, DoRA or replaced tensor, and "
            "no embeddings that are the head as well",
            place=shown(adapter.path),
        )
    return found


def _plain(change: Change) -> LowRank | None:
    """A change that is low-rank factors and nothing else; else None."""
    weights = change.low_rank
    if weights is None or change.replaced or change.added or weights.magnitude:
        return None
    return weights if weights.embedding or not weights.transposed else None


def _shared_out(
    adapter: Adapter, modules: Mapping[str, LowRank], bands: list[tuple[int, ...]] | None
) -> Iterable[tuple[tuple[int, ...] | None, dict[str, LowRank]]]:
    """The modules of each file."""
    if bands is None:
        return [(None, dict(modules))]
    by_layer = {name: layer_of(weights.module) for name, weights in modules.items()}
    outside = [modules[name].module for name, place in by_layer.items() if place is None]
    if outside:
        raise UsageError(
            f"it changes {listed(outside)}, outside the layers, where weights per layer do not "
            "reach; write it whole",
            place=shown(adapter.path),
        )
    numbers = {name: place[1] for name, place in by_layer.items() if place is not None}
    return [(band, {n: modules[n] for n in modules if numbers[n] in band}) for band in bands]


def _file(model: str, band: tuple[int, ...] | None, layers: int, split: Split) -> str:
    """A file's name: numbers of layers have leading zeros, so that files stand in order."""
    if band is None:
        return f"{model}.gguf"
    width = len(str(layers - 1))
    ends = band[:1] if split == "each" else (band[0], band[-1])
    return "-".join([model, *(f"{layer:0{width}d}" for layer in ends)]) + ".gguf"
