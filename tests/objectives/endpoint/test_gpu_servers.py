"""The real vLLM and SGLang, on a machine with a GPU: a merge scores as at home, loaded either way.

::

    EVOMERGE_VLLM=/venv-of-vllm/bin/vllm EVOMERGE_SGLANG=/venv-of-sglang/bin/python \
        python -m pytest tests/objectives/endpoint/test_gpu_servers.py

Without the variables, their tests are skipped.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from evomerge.objectives.endpoint.objective import disagreement
from evomerge.objectives.sglang import SglangObjective
from evomerge.objectives.vllm import VllmObjective
from tests.objectives.endpoint.world import World

SHAPE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}  # what GPU kernels take
ITEMS = [{"prompt": f"{i}+1=", "choices": [str(i + 1), "no"], "answer": 0} for i in range(4)]
NATS = 0.05
"""Their float32 is not ours: tensor cores round what they multiply."""
LORA = ["--enable-lora", "--max-lora-rank", "8"]
VLLM = ["--dtype", "float32", "--max-loras", "2", "--gpu-memory-utilization", "0.3"]
SGLANG = ["--dtype", "float32", "--lora-target-modules", "all", "--mem-fraction-static", "0.3"]


def vllm(program: str, base: Path) -> list[str]:
    return [program, "serve", str(base), "--served-model-name", "base", *LORA, *VLLM]


def sglang(program: str, base: Path) -> list[str]:
    launch = [program, "-m", "sglang.launch_server", "--model-path", str(base)]
    return [*launch, "--served-model-name", "base", *LORA, *SGLANG]


def await_answers(server: subprocess.Popen[bytes], url: str) -> None:
    """Wait until it is ready, half an hour at most by the test's own limit.

    Raises:
        AssertionError: at once, if it has ended.
    """
    while server.poll() is None:
        with suppress(OSError), urlopen(f"{url}/health", timeout=10):  # 503 is one of them
            return
        time.sleep(1)
    raise AssertionError(f"the server has ended with {server.returncode}")


@pytest.mark.timeout(1800)  # imports, CUDA's warm-up and two ways of loading take minutes
@pytest.mark.parametrize(
    ("variable", "command", "objective"),
    [
        pytest.param(
            variable, command, objective,
            marks=pytest.mark.skipif(
                not os.environ.get(variable), reason=f"{variable} names no {what}"
            ),
        )
        for variable, what, command, objective in (
            ("EVOMERGE_VLLM", "program of vLLM", vllm, VllmObjective),
            ("EVOMERGE_SGLANG", "Python with SGLang", sglang, SglangObjective),
        )
    ],
)  # fmt: skip
def test_live(
    variable: str,
    command: Callable[[str, Path], list[str]],
    objective: Callable[..., Any],
    make_folder: Callable[..., Path],
    write_items: Callable[..., Path],
) -> None:
    world = World(make_folder(**SHAPE))
    items = write_items(*ITEMS)
    mix, none = (world.candidate(row, shared=True) for row in ([0.7, -0.4], [0.0, 0.0]))
    wanted = world.local(mix, items)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    start = [*command(os.environ[variable], world.base), "--port", str(port)]
    allowed = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_SERVER_DEV_MODE": "1"}
    url = f"http://127.0.0.1:{port}"
    given = {"url": url, "model": "base", "items": items.name}
    with subprocess.Popen(start, env=os.environ | allowed) as server:
        try:
            await_answers(server, url)
            for load, write in (("adapter", world.adapter), ("checkpoint", world.exported)):
                made = objective({**given, "load": load}, folder=items.parent)
                mixed, base = write(mix, f"{load}-mix"), write(none, f"{load}-base")
                first, second, third = (made.observe(one, None) for one in (base, mixed, base))
                assert disagreement(first, third, NATS) is None
                assert disagreement(first, second, NATS) is not None
                margins = made.evaluate(mixed, None).margins
                assert list(margins) == pytest.approx(list(wanted.margins), abs=2 * NATS)
                told = {**given, "load": load, "scoring": "labels"}
                objective(told, folder=items.parent).evaluate(mixed, None)  # or it tells none
        finally:
            server.terminate()
