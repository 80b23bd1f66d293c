"""A tiny base with LoRA adapters, and the real server over them in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
from safetensors.torch import save_file

from evomerge.demo.checkpoints import write_model
from evomerge.objectives.llama import Llama
from evomerge.objectives.llama_config import LlamaConfig
from evomerge.objectives.tokens import ByteTokenizer

KEY = "a key for tests"
NAMES = ("math", "code", "chat")


def write_pool(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """``base`` and one adapter folder per name, of ranks 1, 2, 3, ..."""
    tokenizer = ByteTokenizer.new(eos_token="</s>")
    shape = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
    }
    random = torch.Generator().manual_seed(0)
    model = Llama(LlamaConfig.from_json(shape, place="config.json"))
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=random)
        parameter.data.copy_(1 + 0.1 * noise if parameter.dim() == 1 else 0.3 * noise)
    write_model(model, tokenizer, folder / "base", name="base", meaning="Random.")
    for rank, name in enumerate(names, start=1):
        factors = {}
        for layer in range(2):
            for module in ("self_attn.q_proj", "mlp.down_proj"):
                rows, columns = model.get_submodule(f"model.layers.{layer}.{module}").weight.shape
                key = f"base_model.model.model.layers.{layer}.{module}"
                factors[f"{key}.lora_A.weight"] = torch.randn(rank, columns, generator=random)
                factors[f"{key}.lora_B.weight"] = torch.randn(rows, rank, generator=random)
        (folder / name).mkdir()
        save_file(factors, folder / name / "adapter_model.safetensors")
        config = {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": rank / 4,
            "target_modules": ["q_proj", "down_proj"],
        }
        (folder / name / "adapter_config.json").write_text(json.dumps(config))
    return folder


@dataclass(frozen=True)
class Server:
    """A running server; requests by the standard library, as any client sends them."""

    url: str
    process: subprocess.Popen[str]

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Status and content."""
        return self.send(path, None, **headers)

    def post(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        """Status and content; the body is JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send(path, data, **headers)

    def send(self, path: str, data: bytes | None, **headers: str) -> tuple[int, Any]:
        """Status and content."""
        known = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
        try:
            with urlopen(Request(self.url + path, data, known), timeout=60) as response:
                return response.status, json.load(response)
        except HTTPError as error:
            with error:
                return error.code, json.load(error)

    @property
    def port(self) -> int:
        """Of the address."""
        return int(self.url.rpartition(":")[2])


def command_line(folder: Path) -> list[str]:
    """``evomerge serve`` over a pool, on a free port."""
    models = [str(path) for path in sorted(folder.iterdir()) if path.name != "base"]
    serve = [sys.executable, "-m", "evomerge", "serve", str(folder / "base"), *models]
    return [*serve, "--port", "0", "--keys-env", "POOL_KEYS"]


@contextmanager
def serving(command: Sequence[str]) -> Iterator[Server]:
    """A server in a process of its own, once it says where it listens."""
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "POOL_KEYS": f"another, {KEY}"},
    )
    assert process.stderr is not None
    with process:
        try:
            line = process.stderr.readline()
            found = re.search(r"http://\S+:\d+", line)
            assert found, line + process.stderr.read()
            yield Server(found[0].rstrip(";"), process)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="session")
def server(pool: Path) -> Iterator[Server]:
    with serving(command_line(pool)) as running:
        yield running
