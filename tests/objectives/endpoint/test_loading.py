"""vLLM and SGLang: merges loaded, scored as at home, let go of; caches that lie are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.errors import ObjectiveError, UsageError
from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError
from evomerge.objectives.endpoint.loading import LoadingObjective
from evomerge.objectives.sglang import SglangObjective
from evomerge.objectives.vllm import VllmObjective
from evomerge.study.loop import Ending, run
from evomerge.study.study import Study
from tests.conftest import Loopback, as_json, served
from tests.objectives.endpoint.loading_server import Reply, Server
from tests.objectives.endpoint.world import World

Write = Callable[..., Path]
CHOICES = [{"prompt": f"{i}+1=", "choices": [str(i + 1), "no"], "answer": i % 2} for i in range(6)]
MADE = {"vllm": VllmObjective, "sglang": SglangObjective}


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
def test_labels_are_read_off_the_likeliest_next_tokens(
    kind: str, world: World, write_items: Write
) -> None:
    items = write_items({"prompt": "2+2=", "choices": ["4", "5", "lots"], "answer": 0})
    mix = world.candidate([0.7, -1.3], shared=True)
    options = {"scoring": "labels", "top": 250, "metrics": ["accuracy", "probability"]}
    with objective(kind, Server(world), items, **options) as made:
        found = made.evaluate(world.adapter(mix), None)
    prompt = world.encode("2+2=\nA. 4\nB. 5\nC. lots\nAnswer:")
    nats = world.table(world.merged(mix.weights_by_layer()), prompt)[-1]
    a, b, c = (nats[world.encode(label)[-1]].double() for label in "ABC")
    odds = float(a - torch.logsumexp(torch.stack([b, c]), 0))
    assert list(found["accuracy"].margins) == pytest.approx([float(a - max(b, c))], abs=1e-4)
    assert list(found["probability"].margins) == pytest.approx([odds], abs=1e-4)
    with objective(kind, Server(world), items, **options | {"top": 1}) as made:
        found = made.evaluate(world.adapter(mix, "again"), None)
    assert found["accuracy"].rates == {"invalid": 1.0}, "the likeliest token is no label"


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
def test_equal_merges_under_other_names_are_no_fault_of_the_server(
    kind: str, world: World, write_items: Write
) -> None:
    """As of two methods, or of twice the weight and half the scaling."""
    mix = world.candidate([0.5, 0], shared=True)
    with objective(kind, Server(world), write_items(*CHOICES), load="checkpoint") as made:
        seen = [made.observe(world.exported(mix, name), [0]) for name in ("first", "second")]
    assert seen[0] == seen[1]


def test_a_prefix_cache_that_stays_full_stops_the_campaign(
    world: World, write_items: Write
) -> None:
    server = Server(world)
    server.held = 5
    with (
        objective("vllm", server, write_items(*CHOICES), load="checkpoint") as made,
        pytest.raises(EndpointDownError, match="somebody else's requests hold it"),
    ):
        made.evaluate(world.exported(world.candidate([0.5, 0], shared=True)), [0])


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
def test_what_a_killed_run_left_loaded_is_let_go_of(
    kind: str, world: World, write_items: Write
) -> None:
    folder = world.adapter(world.candidate([0.5, 0], shared=True))
    server = Server(world)
    server.adapters[f"merged-{folder.parent.name}"] = "/gone", {}
    server.adapters["ours"] = str(folder.parent.parent / "7-adapter" / "ours"), {}
    server.adapters["another's"] = "/gone", {}
    server.adapters["another worker's"] = str(folder.parent / "code"), {}
    with objective(kind, server, write_items(*CHOICES)) as made:
        made.evaluate(folder, [0])
    assert set(server.adapters) == {"another's", "another worker's"}


@pytest.mark.parametrize("kind", MADE)
def test_an_adapter_is_let_go_of_though_another_cannot_be(
    kind: str, world: World, write_items: Write
) -> None:
    folder = world.adapter(world.candidate([0.5, 0], shared=True))

    class Stuck(Server):
        def __call__(self, body: Any, path: str) -> Reply:
            stuck = "unload" in path and body["lora_name"] == "ours"
            return as_json({}, 500) if stuck else super().__call__(body, path)

    server = Stuck(world)
    server.adapters["ours"] = str(folder.parent.parent / "7-adapter" / "ours"), {}
    with (
        objective(kind, server, write_items(*CHOICES)) as made,
        pytest.raises(EndpointError, match="status 500"),
    ):
        made.evaluate(folder, [0])
    assert set(server.adapters) == {"ours"}


def test_what_sglang_may_say_of_adapters_beside_their_paths_is_passed_over(
    world: World, write_items: Write
) -> None:
    class Telling(Server):
        def load(self, body: Any, reply: Callable[[Any], Reply]) -> Reply:
            return super().load(
                body, lambda names: reply({name: {"lora_path": names[name]} for name in names})
            )

    server = Telling(world)
    with objective("sglang", server, write_items(*CHOICES)) as made:
        assert made.evaluate(world.adapter(world.candidate([0.5, 0], shared=True)), [0]).items
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
