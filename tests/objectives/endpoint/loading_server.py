"""A loopback server that loads merges, adapters or all weights, as vLLM and SGLang do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.conftest import as_json
from tests.objectives.endpoint.openai_server import logprob_lists
from tests.objectives.endpoint.world import World

Reply = tuple[int, dict[str, str], bytes]


class Server:
    """The routes of vLLM 0.33 and SGLang 0.5.23 that load, and completions that echo.

    Attributes:
        fault: ``stale``: the prefix cache knows no adapter, weights or salt; ``kept``: new
            weights are taken, and not used.
        adapters: path and change of each parameter, by name.
        events: what was asked beside completions.
        held: how many times the prefix cache will not be emptied, for requests hold it.
    """

    def __init__(self, world: World, fault: str = "") -> None:
        self.world = world
        self.fault = fault
        self.adapters: dict[str, tuple[str, dict[str, torch.Tensor]]] = {}
        self.weights = dict(world.weights)
        self.version = "default"
        self.events: list[str] = []
        self.held = 0
        self.salts: set[str] = set()
        self.cache: dict[tuple[int, ...], Any] = {}

    def __call__(self, body: Any, path: str) -> Reply:
        if path == "/v1/completions":
            return self.completion(body)
        self.events.append(path)
        match path:
            case "/v1/load_lora_adapter":
                return self.load(body, lambda _: (200, {}, b"Success: LoRA adapter added."))
            case "/load_lora_adapter":
                return self.load(
                    body,
                    lambda names: as_json(
                        {"success": True, "error_message": None, "loaded_adapters": names}
                    ),
                )
            case "/v1/unload_lora_adapter" | "/unload_lora_adapter":
                known = self.adapters.pop(body["lora_name"], None)
                vllm = path.startswith("/v1")
                if known is None:
                    return as_json({"error": {"message": "not found"}}, 404 if vllm else 400)
                return (200, {}, b"Success") if vllm else as_json({"success": True})
            case "/v1/models":
                loaded = [
                    {"id": n, "root": p, "parent": "base"} for n, (p, _) in self.adapters.items()
                ]
                return as_json({"data": [{"id": "base", "root": "/models/base"}, *loaded]})
            case "/collective_rpc":
                assert body["method"] == "reload_weights"
                return self.reload(body["kwargs"]["weights_path"], as_json({"results": [None]}))
            case "/reset_prefix_cache":
                self.held -= 1
                self.cache = self.cache if self.fault == "stale" else {}
                return as_json({"success": self.held < 0})
            case "/weight_checker":
                total = sum(float(w.double().sum()) for w in self.weights.values())
                return as_json({"checksum": repr(total)})
            case "/update_weights_from_disk":
                assert body["flush_cache"] is True
                self.version = self.version if self.fault == "kept" else body["weight_version"]
                said = {"success": True, "message": "", "num_paused_requests": 0}
                return self.reload(body["model_path"], as_json(said))
            case "/get_model_info":
                return as_json({"model_path": "", "weight_version": self.version})
        return as_json({"detail": "Not Found"}, 404)

    def load(self, body: Any, reply: Callable[[dict[str, str]], Reply]) -> Reply:
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters:
            return as_json({"error": {"message": "already loaded"}}, 400)
        tensors = load_file(path / "adapter_model.safetensors")
        changes = {}
        for key, down in tensors.items():
            if key.endswith(".lora_A.weight"):
                up = tensors[key.replace("lora_A", "lora_B")]
                module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                changes[f"{module}.weight"] = up @ down
        self.adapters[name] = str(path), changes
        return reply({n: p for n, (p, _) in self.adapters.items()})

    def reload(self, path: str, reply: Reply) -> Reply:
        if not (Path(path) / "config.json").exists():
            return as_json({"error": {"message": "no such model"}}, 500)
        if self.fault != "kept":
            shards = sorted(Path(path).glob("*.safetensors"))
            self.weights = {n: w for shard in shards for n, w in load_file(shard).items()}
        return reply

    def completion(self, body: Any) -> Reply:
        name = body.get("lora_path") or body["model"]
        state = dict(self.weights)
        if name != "base":
            for key, change in self.adapters[name][1].items():
                state[key] = state[key] + change
        assert body["temperature"] == 0
        self.salts.add(body["cache_salt"])
        ids = self.world.encode(body["prompt"])
        if self.fault == "stale":
            state = self.cache.setdefault(tuple(ids), state)
        read, finish = len(ids), "length"
        for _ in range(body["max_tokens"]):
            ids.append(int(self.world.table(state, ids)[-1].argmax()))
            if any(stop in self.world.decode(ids[read:]) for stop in body.get("stop", [])):
                finish = "stop"
                break
        choice: dict[str, Any] = {"text": self.world.decode(ids[read:]), "finish_reason": finish}
        if body.get("logprobs"):
            table = self.world.table(state, ids)
            first = 0 if body.get("echo") else read
            decode, count = self.world.decode, body["logprobs"]
            choice["logprobs"] = logprob_lists(table, decode, ids, first, count)
        if body.get("echo"):
            choice["text"] = body["prompt"] + choice["text"]
        usage = {"prompt_tokens": read, "completion_tokens": len(ids) - read}
        return as_json({"choices": [choice], "usage": usage})
