"""The real ``transformers serve``, on a tiny merge: written answers score as at home."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.objectives.openai import OpenaiObjective
from tests.objectives.endpoint.world import World

for needed in ("fastapi", "openai", "uvicorn", "transformers"):
    pytest.importorskip(needed, reason=f"transformers serve needs {needed}: transformers[serving]")


def test_live(make_folder: Callable[..., Path], write_items: Callable[..., Path]) -> None:
    world = World(make_folder())
    items = write_items({"prompt": "1", "answer": "x"}, {"prompt": "22", "answer": "yy"})
    mix = world.candidate([0.5, -0.25], shared=True)
    wanted = world.local(mix, items, max_new_tokens=3)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    start = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", start, "serve", "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            # Connections that are refused while it starts are tried again.
            given = {
                "url": f"http://127.0.0.1:{port}/v1", "model": "{folder}", "scoring": "match",
                "items": items.name, "max_new_tokens": 3,
                "connection": {"retries": 60, "first_wait": 2, "longest_wait": 2},
            }  # fmt: skip
            made = OpenaiObjective(given, folder=items.parent)
            seen = made.observe(world.base.parent / "merge", None)
            scores = made.evaluate(world.base.parent / "merge", None)
        finally:
            server.kill()
    assert list(scores.items) == list(wanted.items)
    assert [said[2] for said in seen] == [world.written(mix, p, 3) for p in ("1", "22")]
