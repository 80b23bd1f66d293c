"""llama.cpp's server: a loopback that merges, with the real one's quirks, scores as at home."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evomerge.errors import ObjectiveError, UsageError
from evomerge.export.front import export
from evomerge.export.gguf import Split, naming, write_gguf
from evomerge.objectives.endpoint.adapters import Adapters, NamingRule
from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError
from evomerge.objectives.endpoint.objective import disagreement
from evomerge.objectives.jsonl import JsonlObjective
from evomerge.objectives.llama_server import LlamaServerObjective, shared
from evomerge.objectives.models import load_model
from evomerge.objectives.subject import LiveModel
from evomerge.study.loop import Ending, run
from evomerge.study.study import Study
from tests.conftest import Loopback, as_json, served
from tests.gguf_files import deltas, write_base
from tests.objectives.endpoint.world import NAMES, World

Write = Callable[..., Path]
CHOICES = [
    {"prompt": "2+2=", "choices": ["4", "5", "3"], "answer": 0},
    {"prompt": "a caf", "choices": ["\u00e9", "e", "\u00e9s"], "answer": 2},
    {"prompt": "Say", "choices": ["yes", "no"], "answer": 1},
]
ANSWERS = [{"prompt": "1", "answer": "x"}, {"prompt": "22", "answer": ["yy", "z"]}]


class LlamaServer:
    """What llama.cpp's server does, quirks included.

    Attributes:
        split: whether each layer is an adapter of its own.
        deaf: whether the prompt's cache is used although the request forbids it.
        order: of the adapters on the command line.
    """

    def __init__(self, world: World, *, split: bool = False, deaf: bool = False) -> None:
        self.world = world
        self.split = split
        self.deaf = deaf
        self.order = list(NAMES)
        self.cache: dict[tuple[int, ...], Any] = {}
        self.bodies: list[Any] = []

    @property
    def files(self) -> list[str]:
        if not self.split:
            return [f"/models/{name}.gguf" for name in self.order]
        layers = range(self.world.layers)
        return [f"/models/{name}-{layer:02d}.gguf" for name in self.order for layer in layers]

    def __call__(self, body: Any, path: str) -> tuple[int, dict[str, str], bytes]:
        match path:
            case "/props":
                return as_json({"build_info": "b10121", "model_path": "/models/base.gguf"})
            case "/lora-adapters":
                return as_json(
                    [{"id": i, "path": p, "scale": 1.0, "task_name": "", "prompt_prefix": ""}
                     for i, p in enumerate(self.files)]
                )  # fmt: skip
            case "/tokenize":
                assert body["add_special"] is True and body["with_pieces"] is True
                pieces = [
                    {"id": token, "piece": [token] if 128 <= token < 256 else chr(token)}
                    for token in self.world.encode(body["content"])
                ]
                return as_json({"tokens": pieces})
            case "/completion":
                self.bodies.append(body)
                told = self.completion(body)
                if told is None:
                    message = "The model produced output that does not match the expected format"
                    return as_json({"error": {"code": 500, "message": message}}, 500)
                return as_json(told)
        return as_json({"error": {"code": 404, "message": "File Not Found"}}, 404)

    def scales(self, body: Any) -> list[float]:
        """Float32; unknown ids and what is no number pass without a word; [] is the global."""
        if not body.get("lora"):
            return [1.0] * len(self.files)
        found = [0.0] * len(self.files)
        for one in body["lora"]:
            if one["id"] in range(len(found)) and isinstance(one["scale"], int | float):
                found[one["id"]] = float(np.float32(one["scale"]))
        return found

    def state(self, scales: list[float]) -> Any:
        by_model: dict[str, dict[int, float]] = {name: {} for name in NAMES}
        layers = self.world.layers
        for i, scale in enumerate(scales):
            if self.split:
                by_model[self.order[i // layers]][i % layers] = scale
            else:
                by_model[self.order[i]] = dict.fromkeys(range(layers), scale)
        return self.world.merged(by_model)

    def completion(self, body: Any) -> Any:
        scales = self.scales(body)
        ids, state = list(body["prompt"]), self.state(scales)
        read = len(ids)
        if body.get("cache_prompt", True) or self.deaf:
            state = self.cache.setdefault(tuple(ids), state)  # keys and values of the first mix
        bias = dict(body.get("logit_bias", []))
        count, text, told, why = body.get("n_probs", 0), "", [], "limit"
        for _ in range(body["n_predict"]):
            logs = self.world.table(state, ids)[-1]
            biased = logs.clone()
            for token, more in bias.items():
                biased[token] += more
            token = int(biased.argmax())
            ids.append(token)
            if token == 257:
                why = "eos"
                break
            text = self.world.decode(ids[read:])
            if count and not 128 <= token < 256:  # no whole character, no probabilities
                values, best = logs.topk(min(count, len(logs)))
                told.append(
                    {"id": token, "token": chr(token), "bytes": [token % 256],
                     "logprob": float(logs[token]),
                     "top_logprobs": [
                         {"id": i, "token": "", "bytes": [], "logprob": v}
                         for i, v in zip(best.tolist(), values.tolist(), strict=True)
                     ]}
                )  # fmt: skip
            ends = [text.find(stop) for stop in body.get("stop", []) if stop in text]
            if ends:
                text, why = text[: min(ends)], "word"
                break
        if count and 128 <= ids[-1] < 192:  # the text starts within a character
            return None
        answer: dict[str, Any] = {
            "content": text,
            "stop_type": why,
            "tokens_evaluated": read,
            "tokens_predicted": len(ids) - read,
            "generation_settings": {"lora": [{"id": i, "scale": s} for i, s in enumerate(scales)]},
        }
        return answer | ({"completion_probabilities": told} if told else {})


@pytest.fixture
def world(make_folder: Callable[..., Path]) -> World:
    return World(make_folder())


@contextmanager
def objective(server: Any, items: Path, **options: Any) -> Iterator[LlamaServerObjective]:
    with served(Loopback(server)) as loopback:
        given = {"url": loopback.url, "items": items.name, "connection": {"retries": 0}, **options}
        yield LlamaServerObjective(given, folder=items.parent)


@pytest.mark.parametrize("metric", ["accuracy", "probability", "log_likelihood"])
def test_choices_score_as_the_exported_merge_does(
    metric: str, world: World, write_items: Write
) -> None:
    items = write_items(*CHOICES)
    mix = world.candidate([0.7, -1.3], shared=True)
    wanted = world.local(mix, items, metrics=metric)
    with objective(LlamaServer(world), items, metrics=metric) as made:
        found = made.evaluate(mix, None)
        assert made.mixing.per == "model"
    assert list(found.items) == pytest.approx(list(wanted.items), abs=1e-4)
    if wanted.margins is not None:
        assert list(found.margins) == pytest.approx(list(wanted.margins), abs=1e-4)


def test_split_adapters_make_weights_per_layer(world: World, write_items: Write) -> None:
    items = write_items({"text": "It was"}, {"prompt": "So: ", "text": "the best"})
    mix = world.candidate([0.5, -0.25], [-0.75, 1.5])
    wanted = world.local(mix, items)
    server = LlamaServer(world, split=True)
    with objective(server, items, adapters="{model}-{layer}.gguf") as made:
        found = made.evaluate(mix, [1, 0])
        assert made.mixing.per == "layer"
    assert list(found.items) == pytest.approx(list(wanted.items)[::-1], abs=1e-4)
    # math-00, math-01, code-00, code-01 are 0 to 3 on the command line.
    assert [one["scale"] for one in server.bodies[0]["lora"]] == [0.5, -0.75, -0.25, 1.5]


def test_written_answers_score_as_the_exported_merge_does(world: World, write_items: Write) -> None:
    mix = world.candidate([1.0, 0.5], shared=True)
    server = LlamaServer(world)
    state = server.state([1.0, 0.5])
    ids = world.encode("1")
    text = ""
    for _ in range(3):
        ids.append(int(world.table(state, ids)[-1].argmax()))
        text = world.decode(ids[len(world.encode("1")) :])
    items = write_items({"prompt": "1", "answer": text or "x"}, ANSWERS[1])
    options = {"max_new_tokens": 3, "delimiter": ""}
    wanted = world.local(mix, items, **options)
    with objective(server, items, **options) as made:
        found = made.evaluate(mix, None)
    assert list(found.items) == list(wanted.items)
    assert list(found.margins) == pytest.approx(list(wanted.margins), abs=1e-4)
    assert found.rates == wanted.rates


def test_every_request_names_every_adapter_and_no_cache(world: World, write_items: Write) -> None:
    server = LlamaServer(world)
    with objective(server, write_items(*CHOICES[:1])) as made:
        base = made.observe(world.candidate([0, 0], shared=True), None)
        assert base != made.observe(world.candidate([1, 0], shared=True), None)
        # Three choices that are one token each, behind a space: the space, then one of them
        # and the likeliest; 40 of 259 may leave a choice out, which is asked for alone.
        assert {body["n_probs"] for body in server.bodies} <= {1, 40}
    for body in server.bodies:
        assert body["cache_prompt"] is False
        assert [one["id"] for one in body["lora"]] == [0, 1]


def test_a_cache_that_knows_no_scales_changes_what_is_observed(
    world: World, write_items: Write
) -> None:
    """What the self-test compares: base, a mix, base again."""
    candidates = [world.candidate(row, shared=True) for row in ([0, 0], [0.5, 0.5], [0, 0])]
    items = write_items(*CHOICES)
    with objective(LlamaServer(world), items) as made:
        first, second, third = (made.observe(one, None) for one in candidates)
        assert first == third != second
    with objective(LlamaServer(world, deaf=True), items) as made:
        first, second, _ = (made.observe(one, None) for one in candidates)
        assert first == second, "the mix gets the base's answers"


@pytest.mark.parametrize("deaf", [False, True])
def test_a_campaign_is_run_only_if_the_cache_is_off(
    deaf: bool, world: World, write_items: Write
) -> None:
    items = write_items(*({"prompt": f"{i}+1=", "choices": ["4", "5"], "answer": i % 2}
                          for i in range(6)))  # fmt: skip
    with served(Loopback(LlamaServer(world, deaf=deaf))) as server:
        campaign = world.campaign(items, f'type: llama_server, url: "{server.url}"')
        with Study.open(campaign) as study:
            if deaf:
                with pytest.raises(ObjectiveError, match="a cache that does not know them"):
                    run(study)
            else:
                assert run(study).ending is Ending.FINISHED


def test_a_missing_adapter_or_a_server_started_anew_stops_the_campaign(
    world: World, write_items: Write
) -> None:
    items = write_items(*CHOICES)
    mix = world.candidate([0.5, 0.5], shared=True)
    server = LlamaServer(world)
    with (
        objective(server, items, adapters="lora_{model}.gguf") as made,
        pytest.raises(EndpointDownError, match=r"no adapter for math; it has math\.gguf, "),
    ):
        made.evaluate(mix, [0])
    with objective(server, items) as made:
        made.evaluate(mix, [0])
        server.order.reverse()
        with pytest.raises(EndpointDownError, match="started anew"):
            made.evaluate(mix, [0])


def test_scales_that_are_not_applied_fail_the_candidate(world: World, write_items: Write) -> None:
    class Clipping(LlamaServer):
        def scales(self, body: Any) -> list[float]:
            return [min(1.0, scale) for scale in super().scales(body)]

    with objective(Clipping(world), write_items(*CHOICES)) as made:
        made.evaluate(world.candidate([0.7, 1.0], shared=True), [0])  # 0.7 is 0.69999999
        with pytest.raises(EndpointError, match=r"applied adapter 1 at 1\.0, not 1\.5"):
            made.evaluate(world.candidate([0.7, 1.5], shared=True), [0])


def test_files_have_owners_by_the_rule() -> None:
    rule = NamingRule.parse("{model}-{layer}.gguf")
    assert rule.named("/x/math-v2-007.gguf") == ("math-v2", (7,))
    assert rule.named("C:\\x\\math-1.gguf") == ("math", (1,))
    assert rule.named("/x/math.gguf") is None
    bands = NamingRule.parse("{model}-{layers}.gguf")
    assert bands.named("/x/math-2-08-10.gguf") == ("math-2", (8, 9, 10))
    with pytest.raises(EndpointDownError, match=r"adapter math-10-08\.gguf is of layers 10 to 08"):
        bands.named("/x/math-10-08.gguf")
    found = [{"id": 0, "path": "a.gguf"}, {"id": 1, "path": "other/a.gguf"}]
    with pytest.raises(EndpointDownError, match="called alike"):
        Adapters.read(found, NamingRule.parse("{model}.gguf"))
    for wrong in ("fixed.gguf", "{layer}.gguf", "{model}{model}", "{model}-{rank}.gguf",
                  "{model}-{layer}-{layers}"):  # fmt: skip
        with pytest.raises(UsageError, match="a file's name such as"):
            NamingRule.parse(wrong)


def test_adapters_of_no_model_are_at_zero() -> None:
    loaded = Adapters.read(
        [{"id": i, "path": f"{name}.gguf"} for i, name in enumerate("abc")],
        NamingRule.parse("{model}.gguf"),
    )
    # By hand: a and c are the campaign's, b is not.
    assert loaded.scales({"c": -0.5, "a": 2}) == [
        {"id": 0, "scale": 2.0},
        {"id": 1, "scale": 0.0},
        {"id": 2, "scale": -0.5},
    ]


def test_a_continuation_starts_where_its_tokens_leave_the_prompts() -> None:
    assert shared([1, 2, 3], [1, 2, 3, 4]) == 3
    assert shared([1, 2, 3], [1, 2, 9, 4]) == 2, "the prompt's last token became another"
    assert shared([1, 2], [1, 2]) == 1, "something is always scored"
    assert shared([], [7]) == 0


class FileServer(LlamaServer):
    """Adds up what the adapters' files on its command line hold.

    Attributes:
        paths: of the files, in the order of the command line.
    """

    def __init__(self, world: World, paths: list[Path]) -> None:
        super().__init__(world)
        self.paths = paths
        self.changes = [deltas(path, world.base) for path in paths]

    @property
    def files(self) -> list[str]:
        return [str(path) for path in self.paths]

    def state(self, scales: list[float]) -> Any:
        found = dict(self.world.weights)
        for scale, changes in zip(scales, self.changes, strict=True):
            for name, change in changes.items():
                found[name] = found[name] + scale * torch.from_numpy(change)
        return found


def written(world: World, split: Split) -> list[Path]:
    """The world's adapters as files."""
    adapters = {name: world.base.parent / name for name in NAMES}
    folder = world.base.parent / f"gguf-{split}"
    files = write_gguf(world.base, adapters, folder, split=split)
    return [folder / file.name for file in files]


@pytest.mark.parametrize("split", [None, "each", 2, 1])
def test_written_files_score_as_the_exported_merge_does(
    split: Split, world: World, write_items: Write
) -> None:
    items = write_items(*CHOICES)
    apart = split in ("each", 2)
    rows = [[0.5, -0.25], [-0.75, 1.5]] if apart else [[0.7, -1.3]]
    mix = world.candidate(*rows, shared=not apart)
    wanted = world.local(mix, items, metrics="log_likelihood")
    server = FileServer(world, written(world, split))
    with objective(server, items, adapters=naming(split), metrics="log_likelihood") as made:
        found = made.evaluate(mix, None)
    assert list(found.items) == pytest.approx(list(wanted.items), abs=1e-4)


def test_layers_of_one_file_have_one_weight(world: World, write_items: Write) -> None:
    server = FileServer(world, written(world, 1))
    with objective(server, write_items(*CHOICES), adapters=naming(1)) as made:
        wrong = r"layer 1 of math is at -0\.75, and other layers of math-0-1\.gguf are at 0\.5"
        with pytest.raises(EndpointDownError, match=wrong):
            made.evaluate(world.candidate([0.5, 0.5], [-0.75, 0.5]), [0])


def test_a_campaign_by_coefficients_measures_what_its_export_scores(
    world: World, write_items: Write
) -> None:
    """Adapters, cut by `evomerge gguf`, on the server; weights per layer; the merge exported."""
    items = write_items(*({"prompt": f"{i}+1=", "choices": ["4", "5"], "answer": i % 2}
                          for i in range(6)))  # fmt: skip
    server = FileServer(world, written(world, "each"))
    with served(Loopback(server)) as loopback:
        told = f'type: llama_server, url: "{loopback.url}", adapters: "{naming("each")}"'
        told += ", metrics: log_likelihood"
        campaign = world.campaign(items, told, groups="{layers: each}")
        with Study.open(campaign) as study:
            assert run(study).ending is Ending.FINISHED
            number = study.trials()[-1].number
            (folder,) = export(study, world.base.parent / "out", trial=number)
            measured = study.scores(number, "search", "skill").items
            chosen = study.items("skill", "search")
    made = JsonlObjective({"items": items.name, "metrics": "log_likelihood"}, folder=items.parent)
    model = load_model(folder, device="cpu")
    assert isinstance(model, LiveModel)
    again = made.evaluate(model, chosen).items
    assert list(measured) == pytest.approx(list(again), abs=1e-4)


@pytest.mark.skipif(
    not os.environ.get("EVOMERGE_LLAMA_SERVER"),
    reason="EVOMERGE_LLAMA_SERVER names no llama-server binary",
)
@pytest.mark.parametrize("split", [None, "each", 2])
def test_live(split: Split, world: World, write_items: Write) -> None:
    """The real server, with files of ours: scores as the exported merge; the base comes back."""
    base = world.base.parent / "base.gguf"
    write_base(world.base, base)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [
        os.environ["EVOMERGE_LLAMA_SERVER"], "-m", str(base),
        "--lora", ",".join(map(str, written(world, split))),
        "-ctk", "f32", "-ctv", "f32", "-fa", "off", "-t", "1", "--port", str(port),
    ]  # fmt: skip
    items = write_items(*CHOICES)
    rows = [[0.7, -1.3]] if split is None else [[0.5, -0.25], [-0.75, 1.5]]
    mix = world.candidate(*rows, shared=split is None)
    none = world.candidate(*([0.0, 0.0] for _ in rows), shared=split is None)
    options = {"items": items.name, "adapters": naming(split), "metrics": "log_likelihood"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            # 503 while it loads, and refused connections before: both are tried again.
            made = LlamaServerObjective(
                {"url": f"http://127.0.0.1:{port}", **options}, folder=items.parent
            )
            first, second, third = (made.observe(one, None) for one in (none, mix, none))
            scores = made.evaluate(mix, None)
        finally:
            server.kill()
    assert disagreement(first, third, 1e-5) is None
    assert disagreement(first, second, 1e-5) is not None
    wanted = world.local(mix, items, metrics="log_likelihood")
    assert list(scores.items) == pytest.approx(list(wanted.items), abs=1e-4)
