"""Files built byte by byte."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Write a safetensors file: header (an object or its bytes), data, and a claimed length."""

    def write(
        header: Any, data: bytes = b"", *, length: int | None = None, name: str = "x"
    ) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(text) if length is None else length
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(size.to_bytes(8, "little") + text + data)
        return path

    return write


@pytest.fixture
def adapt(tmp_path: Path) -> Callable[..., Path]:
    """Writes a PEFT adapter: factors and whole tensors by their names behind the prefix."""
    numbers = itertools.count()

    def adapt(tensors: Mapping[str, torch.Tensor], **settings: object) -> Path:
        folder = tmp_path / f"adapter-{next(numbers)}"
        folder.mkdir()
        known = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q", "v", "emb"]}
        (folder / "adapter_config.json").write_text(json.dumps({**known, **settings}))
        stored = {f"base_model.model.{n}": t.clone().contiguous() for n, t in tensors.items()}
        save_file(stored, folder / "adapter_model.safetensors")
        return folder

    return adapt
