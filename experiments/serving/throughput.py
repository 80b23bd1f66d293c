"""How many different mixes a second ``evomerge serve`` answers, one item each.

    python experiments/serving/throughput.py [--clients 8] [--requests 400] [--dtype bfloat16]

A Llama of a million parameters with eight LoRA adapters; every request has coefficients of its
own, so nothing is remembered. Server and clients share the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from evomerge.demo.checkpoints import write_model
from evomerge.objectives.llama import Llama
from evomerge.objectives.llama_config import LlamaConfig
from evomerge.objectives.tokens import ByteTokenizer

SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
MODULES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
ADAPTERS = 8
RANK = 8


def write_pool(folder: Path, dtype: torch.dtype) -> int:
    """A base and its adapters; returns the base's number of parameters."""
    tokenizer = ByteTokenizer.new(eos_token="</s>")
    shape = {**SHAPE, "vocab_size": tokenizer.vocab_size, "eos_token_id": tokenizer.eos_token_id}
    random = torch.Generator().manual_seed(0)
    model = Llama(LlamaConfig.from_json(shape, place="config.json"))
    for parameter in model.parameters():
        parameter.data.normal_(std=0.05, generator=random)
    write_model(model, tokenizer, folder / "base", name="base", meaning="Random.")
    for file in (folder / "base").glob("*.safetensors"):
        save_file({name: t.to(dtype) for name, t in load_file(file).items()}, file)
    for index in range(ADAPTERS):
        factors = {}
        for layer in range(SHAPE["num_hidden_layers"]):
            for module in MODULES:
                rows, columns = model.get_submodule(f"model.layers.{layer}.{module}").weight.shape
                key = f"base_model.model.model.layers.{layer}.{module}"
                factors[f"{key}.lora_A.weight"] = torch.randn(RANK, columns, generator=random)
                factors[f"{key}.lora_B.weight"] = torch.randn(rows, RANK, generator=random) / 100
        target = folder / f"a{index}"
        target.mkdir()
        save_file(factors, target / "adapter_model.safetensors")
        names = [module.rpartition(".")[2] for module in MODULES]
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": names}
        (target / "adapter_config.json").write_text(json.dumps(config))
    return sum(parameter.numel() for parameter in model.parameters())


def body(method: str, number: int) -> bytes:
    """A request with coefficients of its own: one weight (and density) per adapter and band."""
    random = np.random.default_rng(number)
    parameters: dict[str, object] = {}
    for field in ("weight", "density") if method == "sparse_signed" else ("weight",):
        for index in range(ADAPTERS):
            for band in ("0", "1-2", "3-4"):
                parameters[f"a{index}/{band}/{field}"] = round(float(random.uniform(0.1, 0.6)), 6)
    merge = {"method": method, "groups": {"layers": 3}, "parameters": parameters}
    items = [{"prompt": "The answer to 2+2 is", "continuations": ["4", "5", "six", "twenty"]}]
    return json.dumps({"items": items, "merge": merge}).encode()


def measure(port: int, bodies: list[bytes], clients: int) -> float:
    """Answers per second."""
    waiting = iter(bodies)
    lock, failures = threading.Lock(), []

    def client() -> None:
        connection = HTTPConnection("127.0.0.1", port)
        while True:
            with lock:
                request = next(waiting, None)
            if request is None:
                return
            connection.request("POST", "/v1/score", request)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                failures.append(text)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(failures[0].decode())
    return len(bodies) / (time.perf_counter() - start)


def main() -> None:
    """Prints one line per method and number of desks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_pool(folder, getattr(torch, arguments.dtype))
        print(f"{size:,} parameters in {arguments.dtype}, {platform.machine()}")
        print(f"{ADAPTERS} adapters of rank {RANK}")
        pool = [str(folder / f"a{index}") for index in range(ADAPTERS)]
        for desks in (1, 2):
            command = ["serve", str(folder / "base"), *pool, "--port", "0", "--desks", str(desks)]
            with subprocess.Popen(
                [sys.executable, "-m", "evomerge", *command], stderr=subprocess.PIPE, text=True
            ) as server:
                assert server.stderr is not None
                found = re.search(r":(\d+);", server.stderr.readline())
                assert found
                for method in ("task_arithmetic", "sparse_signed"):
                    warm = [body(method, 10**6 + i) for i in range(40)]
                    measure(int(found[1]), warm, arguments.clients)
                    bodies = [body(method, i) for i in range(arguments.requests)]
                    rate = measure(int(found[1]), bodies, arguments.clients)
                    print(f"{desks} desks, {method}: {rate:.0f} different mixes a second")
                server.terminate()


if __name__ == "__main__":
    main()
