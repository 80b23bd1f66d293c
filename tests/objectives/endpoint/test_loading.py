"""vLLM and SGLang: merges loaded, scored as at home, let go of; caches that lie are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evomerge.errors import ObjectiveError, UsageError
from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError
from evomerge.objectives.endpoint.loading import LoadingObjective
from evomerge.objectives.sglang import SglangObjective
from evomerge.objectives.vllm import VllmObjective
from evomerge.study.loop import Ending, run
from evomerge.study.study import Study
from tests.conftest import Loopback, as_json, served
from tests.objectives.endpoint.world import World

Write = Callable[..., Path]
Reply = tuple[int, dict[str, str], bytes]
CHOICES = [{"prompt": f"{i}+1=", "choices": [str(i + 1), "no"], "answer": i % 2} for i in range(6)]
MADE = {"vllm": VllmObjective, "sglang": SglangObjective}
FAULTS = ("stale", "kept")


class Server:
    """The routes of vLLM 0.33 and SGLang 0.5.23 that load, and completions that echo.

    Attributes:
        fault: ``stale``: the prefix cache knows no adapter, weights or salt; ``kept``: new
            weights are taken, and not used.
        adapters: path and change of each parameter, by name.
        events: what was asked beside completions.
    """

    def __init__(self, world: World, fault: str = "") -> None:
        self.world = world
        self.fault = fault
        self.adapters: dict[str, tuple[str, dict[str, torch.Tensor]]] = {}
        self.weights = dict(world.weights)
        self.version = "default"
        self.events: list[str] = []
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
                self.cache = self.cache if self.fault == "stale" else {}
                return as_json({"success": True})
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
        if self.fault != "kept":
            self.weights = load_file(Path(path) / "model.safetensors")
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
        if body.get("echo"):
            table = self.world.table(state, ids)
            nats = [None, *(table[i - 1, ids[i]].item() for i in range(1, len(ids)))]
            tokens = [self.world.decode([i]) for i in ids]
            choice["text"] = body["prompt"] + choice["text"]
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": nats, "top_logprobs": None}
        usage = {"prompt_tokens": read, "completion_tokens": len(ids) - read}
        return as_json({"choices": [choice], "usage": usage})


@pytest.fixture
def world(make_folder: Callable[..., Path]) -> World:
    return World(make_folder())


@contextmanager
def objective(kind: str, server: Any, items: Path, **options: Any) -> Iterator[LoadingObjective]:
    with served(Loopback(server)) as loopback:
        given = {"url": loopback.url, "model": "base", "items": items.name,
                 "connection": {"retries": 0}, **options}  # fmt: skip
        yield MADE[kind](given, folder=items.parent)


@pytest.mark.parametrize("kind", MADE)
def test_a_loaded_adapter_scores_as_the_exported_merge_does(
    kind: str, world: World, write_items: Write
) -> None:
    items = write_items(*CHOICES, {"prompt": "So", "choices": ["yes", "noo"], "answer": 0})
    mix = world.candidate([0.7, -1.3], shared=True)
    wanted = world.local(mix, items, metrics="probability")
    server = Server(world)
    with objective(kind, server, items, metrics="probability") as made:
        assert made.needs == "adapter"
        found = made.evaluate(world.adapter(mix), None)
        base = made.observe(world.adapter(world.candidate([0, 0], shared=True), "none"), [0])
    assert list(found.items) == pytest.approx(list(wanted.items), abs=1e-4)
    assert list(found.margins) == pytest.approx(list(wanted.margins), abs=1e-4)
    assert server.adapters == {}, "unloaded"
    assert base and sum("unload" in event for event in server.events) == 1, "the base is no adapter"
    assert server.salts == {"merged", "none"}, "each merge has its salt"


@pytest.mark.parametrize("kind", MADE)
def test_loaded_weights_score_as_the_exported_merge_does(
    kind: str, world: World, write_items: Write
) -> None:
    items = write_items({"prompt": "1", "answer": "x"}, {"prompt": "2", "answer": ["yy", "z"]})
    mix = world.candidate([0.5, -0.25], [-0.75, 1.5])
    options = {"max_new_tokens": 3, "metrics": "exact_match"}
    wanted = world.local(mix, items, **options)
    with objective(kind, Server(world), items, load="checkpoint", **options) as made:
        assert made.needs == "folder"
        found = made.evaluate(world.base.parent / "merge", None)
    assert list(found.items) == list(wanted.items)
    assert list(found.margins) == pytest.approx(list(wanted.margins), abs=1e-4)


@pytest.mark.parametrize("kind", MADE)
def test_weights_that_are_taken_and_not_used_are_found_by_reading_back(
    kind: str, world: World, write_items: Write
) -> None:
    first = world.exported(world.candidate([0.5, 0], shared=True), "first")
    second = world.exported(world.candidate([0, 0.5], shared=True), "second")
    server = Server(world)
    with objective(kind, server, write_items(*CHOICES), load="checkpoint") as made:
        made.evaluate(first, [0])
        server.fault = "kept"
        with pytest.raises(EndpointError, match=r"the weights that it had|it has other weights"):
            made.evaluate(second, [0])


@pytest.mark.parametrize("kind", MADE)
def test_weights_that_somebody_else_replaces_stop_the_campaign(
    kind: str, world: World, write_items: Write
) -> None:
    folder = world.exported(world.candidate([0.5, 0], shared=True))

    class Shared(Server):
        def completion(self, body: Any) -> Reply:
            self.version = "theirs"
            self.weights = dict(self.world.weights)
            return super().completion(body)

    with (
        objective(kind, Shared(world), write_items(*CHOICES), load="checkpoint") as made,
        pytest.raises(EndpointDownError, match="replaced while they were measured"),
    ):
        made.evaluate(folder, [0])


@pytest.mark.parametrize("kind", MADE)
def test_what_a_killed_run_left_loaded_is_loaded_anew(
    kind: str, world: World, write_items: Write
) -> None:
    folder = world.adapter(world.candidate([0.5, 0], shared=True))
    server = Server(world)
    server.adapters[f"merged-{folder.parent.name}"] = "/gone", {}
    with objective(kind, server, write_items(*CHOICES)) as made:
        made.evaluate(folder, [0])
    assert server.adapters == {}


def test_a_server_that_was_not_started_for_loading_says_so(
    world: World, write_items: Write
) -> None:
    folder = world.adapter(world.candidate([0.5, 0], shared=True))

    def reply(body: Any, path: str) -> Reply:
        return as_json({"detail": "Not Found"}, 404)

    with (
        objective("vllm", reply, write_items(*CHOICES)) as made,
        pytest.raises(EndpointDownError, match="not started for loading"),
    ):
        made.evaluate(folder, [0])
    with pytest.raises(UsageError, match="the server's root is wanted"):
        VllmObjective(
            {"url": "http://x/v1", "model": "base", "items": "items.jsonl"}, folder=folder.parent
        )


@pytest.mark.parametrize(
    ("kind", "load", "fault"),
    [("vllm", "adapter", ""), ("sglang", "adapter", "stale")],
)
def test_a_campaign_is_run_only_if_the_cache_tells_merges_apart(
    kind: str, load: str, fault: str, world: World, write_items: Write
) -> None:
    with served(Loopback(Server(world, fault))) as server:
        said = f'type: {kind}, url: "{server.url}", model: base, load: {load}'
        campaign = world.campaign(write_items(*CHOICES), said)
        with Study.open(campaign) as study:
            if fault:
                with pytest.raises(ObjectiveError, match="a cache that does not know them"):
                    run(study)
            else:
                assert run(study).ending is Ending.FINISHED
