"""LoRAX: a loopback that mixes factor by factor, and refuses what LoRAX refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from evomerge.coefficients import Coefficients
from evomerge.errors import ObjectiveError, UsageError
from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError
from evomerge.objectives.jsonl import JsonlObjective
from evomerge.objectives.lorax import LoraxObjective
from evomerge.objectives.models import load_model
from evomerge.study.loop import Ending, run
from evomerge.study.study import Study
from tests.conftest import Loopback, as_json, served
from tests.objectives.endpoint.world import World

Write = Callable[..., Path]
CHOICES = [{"prompt": f"{i}+1=", "choices": ["4", "55"], "answer": i % 2} for i in range(6)]


class Lorax:
    """``/generate`` of LoRAX, with what its router and its shards refuse.

    Attributes:
        frozen: whether the first mix of a prompt is cached under the prompt alone.
    """

    def __init__(self, world: World, *, frozen: bool = False) -> None:
        self.world = world
        self.frozen = frozen
        self.cache: dict[Any, Any] = {}
        self.mixes: list[Any] = []

    def __call__(self, body: Any, path: str) -> tuple[int, dict[str, str], bytes]:
        assert path == "/generate"
        given = body["parameters"]
        mix = given.get("merged_adapters")
        if not body["inputs"]:
            return self.refused("`inputs` cannot be empty")
        if given["max_new_tokens"] < 1:
            return self.refused("`max_new_tokens` must be strictly positive")
        if mix is not None:
            if "adapter_id" in given:
                return self.refused("at most one of `adapter_id` or `merged_adapters`")
            if not mix["ids"]:
                return self.refused("`merged_adapters.ids` must be non-empty")
            if len(mix["ids"]) != len(mix["weights"]):
                return self.refused("`ids` and `weights` must have the same length")
            # An unknown strategy is no 422: the router's thread panics, and the socket closes.
            assert mix["merge_strategy"] in ("linear", "ties", "dare_linear", "dare_ties")
            self.mixes.append(mix)
        ids = self.world.encode(body["inputs"])
        state = self.state(mix)
        if mix is not None and self.frozen:
            state = self.cache.setdefault(tuple(ids), state)
        read, why, stops = len(ids), "length", given.get("stop", [])
        table = self.world.table(state, ids)
        prefill = [
            {"id": t, "text": "", "logprob": None if i == 0 else table[i - 1, t].item()}
            for i, t in enumerate(ids)
        ]
        for _ in range(given["max_new_tokens"]):
            ids.append(int(self.world.table(state, ids)[-1].argmax()))
            if any(stop in self.world.decode(ids[read:]) for stop in stops):
                why = "stop_sequence"
                break
        details = {"finish_reason": why, "prompt_tokens": read, "generated_tokens": len(ids) - read}
        if given.get("decoder_input_details"):
            details["prefill"] = prefill
        return as_json({"generated_text": self.world.decode(ids[read:]), "details": details})

    def refused(self, why: str) -> tuple[int, dict[str, str], bytes]:
        return as_json({"error": f"Input validation error: {why}", "error_type": "validation"}, 422)

    def state(self, mix: Any) -> Any:
        """The factors are added up apart, each at the full weight."""
        found = dict(self.world.weights)
        if mix is None:
            return found
        assert mix["merge_strategy"] == "linear" and mix["density"] == 1.0
        names = [name.removeprefix("/data/") for name in mix["ids"]]
        for tensor in self.world.factors["math"]:
            pairs = [self.world.factors[name][tensor] for name in names]
            ups = sum(w * up for w, (up, _) in zip(mix["weights"], pairs, strict=True))
            downs = sum(w * down for w, (_, down) in zip(mix["weights"], pairs, strict=True))
            found[tensor] = found[tensor] + ups @ downs
        return found


@pytest.fixture
def world(make_folder: Callable[..., Path]) -> World:
    return World(make_folder())


@contextmanager
def objective(server: Any, items: Path, **options: Any) -> Iterator[LoraxObjective]:
    with served(Loopback(server)) as loopback:
        given = {"url": loopback.url, "adapters": "/data/{model}", "items": items.name,
                 "connection": {"retries": 0}, **options}  # fmt: skip
        yield LoraxObjective(given, folder=items.parent)


@pytest.mark.parametrize(
    ("items", "options"),
    [
        (CHOICES, {"metrics": "probability"}),
        ([{"prompt": "1", "answer": "x"}], {"max_new_tokens": 3}),
        ([{"text": "It was"}], {}),
    ],
)
def test_scores_are_those_of_the_merge_in_factor_space(
    items: Any, options: dict[str, Any], world: World, write_items: Write
) -> None:
    path = write_items(*items)
    mix = world.candidate([0.7, -0.4], shared=True)
    server = Lorax(world)
    with objective(server, path, **options) as made:
        found = made.evaluate(mix, None)
        assert made.mixing.semantics == "factor"
    (folder := world.base.parent / "factors").mkdir()
    for file in world.base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    save_file(
        server.state(server.mixes[0]), folder / "model.safetensors", metadata={"format": "pt"}
    )
    local = JsonlObjective({"items": path.name, **options}, folder=path.parent)
    wanted = local.evaluate(load_model(folder, device="cpu"), None)
    assert list(found.items) == pytest.approx(list(wanted.items), abs=1e-4)
    if wanted.margins is not None:
        assert list(found.margins) == pytest.approx(list(wanted.margins), abs=1e-4)
    # Not what an export of ours would score: a weight counts squared.
    other = world.local(mix, path, **options)
    assert (other.margins or other.items) != pytest.approx(wanted.margins or wanted.items, abs=1e-2)


def test_every_mix_says_all_that_it_is(world: World, write_items: Write) -> None:
    server = Lorax(world)
    with objective(server, write_items(*CHOICES)) as made:
        made.evaluate(world.candidate([0.123456789, 0], shared=True), [0])
    assert server.mixes[0] == {
        "ids": ["/data/math", "/data/code"],
        "weights": [0.123457, 0.0],
        "merge_strategy": "linear",
        "density": 1.0,
        "majority_sign_method": "total",
    }


def test_ties_has_one_density_and_nothing_else_is_trimmed(world: World, write_items: Write) -> None:
    def mix(method: str, density: float) -> Coefficients:
        fields: dict[str, float | tuple[float, ...]] = {"weight": (1.0, 0.5), "density": density}
        return Coefficients(method, ("math", "code"), {"all": fields}, {"all": (0, 1)})

    sent: list[Any] = []

    def reply(body: Any, path: str) -> Any:
        sent.append(body["parameters"].get("merged_adapters"))
        return as_json({"error": "enough", "error_type": "generation"}, 424)

    with objective(reply, write_items(*CHOICES), strategy="ties") as made:
        assert made.mixing.density == "all"
        with pytest.raises(EndpointDownError, match="trims in ties alone"):
            made.evaluate(mix("sparse_signed", 0.5), [0])
        with pytest.raises(EndpointError, match="424"):
            made.evaluate(mix("ties", 0.5), [0])
        assert made._mix(mix("ties", 0.5))["merged_adapters"]["density"] == 0.5
        assert made._mix(mix("ties", 0.5))["merged_adapters"]["merge_strategy"] == "ties"


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"adapter_id": "/data/math"}, "at most one of `adapter_id` or `merged_adapters`"),
        ({"merged_adapters": {"ids": [], "weights": []}}, "must be non-empty"),
        ({"merged_adapters": {"ids": ["/data/math"], "weights": []}}, "the same length"),
        ({"max_new_tokens": 0}, "must be strictly positive"),
        ({"merged_adapters": {"ids": ["/data/math"], "weights": [1], "merge_strategy": "dares"}},
         "RemoteProtocolError|ReadError"),
    ],
)  # fmt: skip
def test_what_lorax_refuses_fails_the_trial_in_its_words(
    sent: dict[str, Any], said: str, world: World, write_items: Write
) -> None:
    """None of it is what the objective sends, so it is put into its requests on their way."""
    lorax = Lorax(world)

    def meddled(body: Any, path: str) -> Any:
        merges = "merged_adapters" in body["parameters"]
        changed = {**body["parameters"], **sent} if merges else body["parameters"]
        return lorax({**body, "parameters": changed}, path)

    with (
        objective(meddled, write_items(*CHOICES)) as made,
        pytest.raises(EndpointError, match=said) as caught,
    ):
        made.evaluate(world.candidate([0.5, 0.5], shared=True), [0])
    assert type(caught.value) is EndpointError, "the campaign goes on"
    assert lorax.mixes == []


def test_strategies_that_are_drawn_or_unknown_are_not_sent(write_items: Write) -> None:
    items = write_items(*CHOICES)
    for strategy in ("dare_ties", "dares"):
        with pytest.raises(UsageError, match="strategy is"):
            LoraxObjective(
                {"url": "http://x", "items": items.name, "strategy": strategy}, folder=items.parent
            )


def test_a_single_adapter_is_refused_for_its_weight_would_be_ignored(
    world: World, write_items: Write
) -> None:
    fields: dict[str, float | tuple[float, ...]] = {"weight": (0.5,)}
    alone = Coefficients("task_arithmetic", ("math",), {"all": fields}, {"all": (0, 1)})
    with objective(Lorax(world), write_items(*CHOICES)) as made:
        with pytest.raises(EndpointDownError, match="ignores the weight of a single adapter"):
            made.evaluate(alone, [0])
        with pytest.raises(UsageError, match=r"\{model\}"):
            LoraxObjective({"url": "http://x", "adapters": "fixed"}, folder=world.base)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_campaign_is_run_only_if_the_cache_knows_the_mix(
    frozen: bool, world: World, write_items: Write
) -> None:
    """LoRAX has no state that could be read back: stale answers are the self-test's to find."""
    with served(Loopback(Lorax(world, frozen=frozen))) as server:
        said = f'type: lorax, url: "{server.url}", adapters: "/data/{{model}}"'
        campaign = world.campaign(write_items(*CHOICES), said)
        with Study.open(campaign) as study:
            if frozen:
                with pytest.raises(ObjectiveError, match="a cache that does not know them"):
                    run(study)
            else:
                assert run(study).ending is Ending.FINISHED
