"""Which GPUs there are, as nvidia-smi lists them."""

from __future__ import annotations

import pytest

from evomerge.study.workers.devices import cuda_devices, parse_listing

TWO = """\
GPU 0: NVIDIA H200 (UUID: GPU-aaaa-1)
GPU 1: NVIDIA H200 (UUID: GPU-bbbb-2)
"""
SPLIT = """\
GPU 0: NVIDIA A100 (UUID: GPU-aaaa-1)
  MIG 3g.40gb     Device  0: (UUID: MIG-1111)
  MIG 3g.40gb     Device  1: (UUID: MIG-2222)
GPU 1: NVIDIA A100 (UUID: GPU-bbbb-2)
"""


def test_whole_gpus_are_listed_by_their_identity() -> None:
    assert parse_listing(TWO) == ("GPU-aaaa-1", "GPU-bbbb-2")


def test_a_split_gpu_is_listed_by_its_parts() -> None:
    assert parse_listing(SPLIT) == ("MIG-1111", "MIG-2222", "GPU-bbbb-2")


def test_nothing_is_listed_as_nothing() -> None:
    assert parse_listing("NVIDIA-SMI has failed") == ()


@pytest.mark.parametrize(
    ("chosen", "devices"),
    [("2,3", ("2", "3")), ("", ()), ("-1", ()), ("GPU-a, GPU-b", ("GPU-a", "GPU-b"))],
)
def test_what_the_user_chose_counts(
    chosen: str, devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert cuda_devices() == devices
