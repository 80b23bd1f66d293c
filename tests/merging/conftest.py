"""Small checkpoints, written by the safetensors library."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evomerge.checkpoint.checkpoint import Checkpoint

Tensors = Mapping[str, torch.Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Callable[..., Checkpoint]]:
    """Writes tensors as a checkpoint and opens it.

    ``cuts`` are where one shard ends; ``tie`` says in config.json that the head is tied.
    """
    numbers, opened = itertools.count(), []

    def store(tensors: Tensors, *, cuts: tuple[int, ...] = (), tie: bool = False) -> Checkpoint:
        folder = tmp_path / f"stored-{next(numbers)}"
        folder.mkdir()
        if tie:
            (folder / "config.json").write_text('{"tie_word_embeddings": true}')
        names = list(tensors)
        ends = sorted({min(cut, len(names)) for cut in cuts} | {0, len(names)})
        weight_map = {}
        for start, stop in itertools.pairwise(ends):
            shard = f"model-{start:05d}.safetensors" if cuts else "model.safetensors"
            save_file(
                {n: tensors[n].clone().contiguous() for n in names[start:stop]}, folder / shard
            )
            weight_map |= dict.fromkeys(names[start:stop], shard)
        if cuts:
            index = {"metadata": {}, "weight_map": weight_map}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        opened.append(Checkpoint.open(folder))
        return opened[-1]

    yield store
    for checkpoint in opened:
        checkpoint.close()
