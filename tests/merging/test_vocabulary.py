"""Models with more or fewer tokens than the base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import CheckpointError
from evomerge.merging import entries
from evomerge.merging.live import LiveMerge
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan, Vocabulary
from evomerge.merging.registry import METHODS, method_named

Store = Callable[..., Checkpoint]
EMBED, HEAD, UP = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight"


def model(rows: int, value: float, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Every number is the same one."""
    shapes = {EMBED: (rows, 2), UP: (2, 2), HEAD: (rows, 2)}
    return {name: torch.full(shape, value, dtype=dtype) for name, shape in shapes.items()}


def merged_rows(store: Store, vocabulary: Vocabulary, *rows: int) -> list[float]:
    """The first column of the embeddings of base 0 with 4 rows and models that are 1, 2, ...;
    each with weight 1."""
    models = {f"m{i}": store(model(n, i + 1.0)) for i, n in enumerate(rows)}
    merger = Merger(store(model(4, 0.0)), models, vocabulary=vocabulary)
    settings = {"weight": (1.0,) * len(rows), "density": (1.0,) * len(rows)}
    found = merger.tensor(EMBED, settings, "sparse_signed")
    assert found.shape == (4, 2)
    column: list[float] = found[:, 0].tolist()
    return column


def test_other_vocabularies_are_refused_unless_the_recipe_says_what_to_do(store: Store) -> None:
    with pytest.raises(CheckpointError, match="vocabulary: common"):
        merged_rows(store, "refuse", 4, 6)


@pytest.mark.parametrize(
    ("vocabulary", "rows", "expected"),
    [
        ("base", (4, 4), [3.0, 3.0, 3.0, 3.0]),
        ("base", (6, 4), [3.0, 3.0, 3.0, 3.0]),
        ("base", (2, 3), [3.0, 3.0, 2.0, 0.0]),
        ("base", (2, 6), [3.0, 3.0, 2.0, 2.0]),
        ("common", (4, 4), [3.0, 3.0, 3.0, 3.0]),
        ("common", (2, 3), [3.0, 3.0, 0.0, 0.0]),
        ("common", (2, 6), [3.0, 3.0, 0.0, 0.0]),
        ("common", (4, 6), [3.0, 3.0, 3.0, 3.0]),
        ("common", (1, 4), [3.0, 0.0, 0.0, 0.0]),
    ],
)
def test_the_output_has_the_bases_rows(
    store: Store, vocabulary: Vocabulary, rows: tuple[int, ...], expected: list[float]
) -> None:
    assert merged_rows(store, vocabulary, *rows) == expected


@pytest.mark.parametrize("vocabulary", ["base", "common"])
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16,) * 2])
@pytest.mark.parametrize("compiled", [False, True])
def test_disk_live_and_single_tensors_agree(
    store: Store,
    tmp_path: Path,
    vocabulary: Vocabulary,
    dtypes: tuple[torch.dtype, torch.dtype],
    compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the base's numbers do not fit into the model's dtype: its rows stay its own."""
    generator = torch.Generator().manual_seed(0)
    base, *others = (
        {n: torch.randn(t.shape, generator=generator).to(t.dtype) for n, t in model(*a).items()}
        for a in ((7, 0.0, dtypes[0]), (5, 0.0, dtypes[1]), (9, 0.0, dtypes[1]))
    )
    stored = {f"m{i}": store(other) for i, other in enumerate(others)}
    merger = Merger(store(base), stored, vocabulary=vocabulary, compiled=compiled)
    settings = {"weight": (0.5, 0.25), "density": (0.5, 0.5)}
    plan = MergePlan("sparse_signed", ("m0", "m1"), dict.fromkeys(base, settings))
    single = {name: merger.tensor(name, settings, "sparse_signed") for name in base}
    monkeypatch.setattr(entries, "CHUNK", 3)
    (tmp_path / "out").mkdir()
    merger.write(plan, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    module = nn.Module()
    for name, tensor in base.items():
        holder = module
        *path, last = name.split(".")
        for word in path:
            if not hasattr(holder, word):
                holder.add_module(word, nn.Module())
            holder = holder.get_submodule(word)
        holder.register_parameter(last, nn.Parameter(torch.zeros_like(tensor)))
    LiveMerge(merger, module).apply(plan)
    for name, expected in single.items():
        assert torch.equal(written[name], expected)
        assert torch.equal(module.state_dict()[name], expected)
    if vocabulary == "common":
        assert torch.equal(single[EMBED][5:], base[EMBED][5:])


@pytest.mark.parametrize("name", [n for n in METHODS.own if not method_named(n).traits.adapters])
def test_every_method_of_whole_models_takes_refitted_ones(store: Store, name: str) -> None:
    method = method_named(name)
    count = method.traits.most or 2
    models = {f"m{i}": store(model(3 + 2 * i, 1.0)) for i in range(count)}
    merger = Merger(store(model(4, 0.0)), models, vocabulary="base")
    settings = {
        f.name: (f.default,) * count if f.per == "model" else f.default for f in method.fields
    }
    found = merger.tensor(EMBED, settings, name)
    assert found.shape == (4, 2) and bool(found.isfinite().all())


def test_other_differences_are_still_refused(store: Store) -> None:
    wide = model(6, 1.0) | {EMBED: torch.ones(6, 3)}
    with pytest.raises(CheckpointError, match="shape"):
        Merger(store(model(4, 0.0)), {"m": store(wide)}, vocabulary="base")
