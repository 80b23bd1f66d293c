"""Files built byte by byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
