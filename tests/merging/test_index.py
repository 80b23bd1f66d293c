"""Tables of magnitudes outlive the process, and a cache that is gone or broken only costs time."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.merging import index as module
from evomerge.merging.index import MagnitudeIndex, VectorKey
from evomerge.merging.magnitudes import CODES, MagnitudeTable
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan

COUNT = 300
PLAN = MergePlan("sparse_signed", ("m",), {"w": {"weight": (0.5,), "density": (0.3,)}})


@pytest.fixture(autouse=True)
def small_tensors_are_worth_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_A_FILE", 10)


@pytest.fixture
def pair(store: Callable[..., Checkpoint], tmp_path: Path) -> tuple[Checkpoint, Checkpoint]:
    """A base and a model whose digests are known."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2):
        checkpoint = store({"w": torch.randn(COUNT, generator=generator).bfloat16()})
        for shard in checkpoint.shards:
            os.utime(shard, ns=(0, shard.stat().st_mtime_ns - 3600 * 10**9))
        again = Checkpoint.open(checkpoint.path)
        again.digests(tmp_path / "digests.json")
        again.recall(tmp_path / "digests.json")
        found.append(again)
    return found[0], found[1]


def some_table(seed: int = 0, count: int = COUNT) -> MagnitudeTable:
    codes = torch.randint(0, 100, (count,), generator=torch.Generator().manual_seed(seed))
    return MagnitudeTable.of(torch.bincount(codes, minlength=CODES), count)


def key(pair: tuple[Checkpoint, Checkpoint], name: str = "m") -> VectorKey:
    return VectorKey("w", name, COUNT, *(checkpoint.identity("w") for checkpoint in pair))


def same(one: MagnitudeTable | None, other: MagnitudeTable) -> bool:
    return (
        one is not None
        and one.count == other.count
        and one.codes.tolist() == other.codes.tolist()
        and one.reached.tolist() == other.reached.tolist()
        and one.reached.dtype == other.reached.dtype
    )


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_another_process_finds_the_table(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    table = some_table()
    MagnitudeIndex(tmp_path / "index").add(key(pair), table)
    assert same(MagnitudeIndex(tmp_path / "index").find(key(pair, "another name")), table)
    assert MagnitudeIndex(tmp_path / "index").find(key(pair[::-1])) is None


def test_the_largest_table_is_below_a_megabyte(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    every = MagnitudeTable.of(torch.ones(CODES, dtype=torch.int64), CODES)
    key_of_all = key(pair)._replace(entries=CODES)
    MagnitudeIndex(tmp_path).add(key_of_all, every)
    assert files(tmp_path)[0].stat().st_size < 10**6


def test_without_digests_nothing_is_written(
    store: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    unknown = store({"w": torch.ones(COUNT)})
    MagnitudeIndex(tmp_path / "index").add(key((unknown, unknown)), some_table())
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("place", [0, 25, 60, -1])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_no_table(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path, place: int, damage: str
) -> None:
    MagnitudeIndex(tmp_path / "index").add(key(pair), some_table())
    (file,) = files(tmp_path / "index")
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes({"flip": bytes(data), "cut": bytes(data[:place]), "empty": b""}[damage])
    assert MagnitudeIndex(tmp_path / "index").find(key(pair)) is None


def test_a_folder_that_cannot_be_used_is_passed_over(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    index = MagnitudeIndex(tmp_path / "file")
    index.add(key(pair), some_table())
    assert same(index.find(key(pair)), some_table())


def test_processes_may_write_the_same_table_at_once(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    def work(_: int) -> bool:
        index = MagnitudeIndex(tmp_path / "index")
        index.add(key(pair), some_table())
        return same(MagnitudeIndex(tmp_path / "index").find(key(pair)), some_table())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))
    assert len(files(tmp_path / "index")) == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_a_merge_counts_once_and_gives_the_same_bits(
    pair: tuple[Checkpoint, Checkpoint],
    tmp_path: Path,
    compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def merged(name: str, index: Path | None) -> torch.Tensor:
        (tmp_path / name).mkdir()
        merger = Merger(pair[0], {"m": pair[1]}, compiled=compiled, index=index)
        merger.write(PLAN, tmp_path / name)
        return load_file(tmp_path / name / "model.safetensors")["w"]

    plain, first = merged("plain", None), merged("first", tmp_path / "index")
    (file,) = files(tmp_path / "index")
    with monkeypatch.context() as patch:
        patch.setattr("evomerge.merging.to_disk.Tally", None)  # nothing is to be counted
        second = merged("second", tmp_path / "index")
    file.write_bytes(b"broken")
    third = merged("third", tmp_path / "index")
    assert all(torch.equal(plain, other) for other in (first, second, third))
