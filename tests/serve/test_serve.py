"""The protocol, over a real socket: what is measured by requests is what `merge` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.export.merge import write_merge
from evomerge.objectives.jsonl import JsonlObjective
from evomerge.objectives.models import load_model
from tests.serve.conftest import KEY, NAMES, Server

ITEMS = [{"prompt": "2+2=", "continuations": ["4", "5", "22"]}, {"continuations": ["the"]}]
MERGES: list[dict[str, Any]] = [
    {"method": "task_arithmetic", "parameters": {"weight": {"math": 0.7, "code": -0.4, "chat": 0}}},
    {
        "method": "sparse_signed",
        "groups": {"layers": "each", "modules": ["attention", "mlp"]},
        "parameters": {"weight": 0.3, "density": 0.4, "math/1.mlp/weight": -1.2},
    },
    {"method": "ties", "parameters": {"weight": 1, "density": 0.3}},
]


def likelihoods(answer: dict[str, Any]) -> list[list[float]]:
    return [[part["log_likelihood"] for part in item] for item in answer["items"]]


@pytest.mark.parametrize("merge", MERGES, ids=lambda merge: str(merge["method"]))
def test_a_mix_is_the_merge_that_its_coefficients_write(
    merge: dict[str, Any], server: Server, pool: Path, tmp_path: Path
) -> None:
    items = [
        {"prompt": "2+2=", "choices": ["4", "5", "22"], "answer": 0},
        {"prompt": "one two ", "choices": ["three", "one"], "answer": 0},
    ]
    asked = [{"prompt": item["prompt"], "continuations": item["choices"]} for item in items]
    status, answer = server.post("/v1/score", {"items": asked, "merge": merge})
    assert status == 200
    models = {name: str(pool / name) for name in sorted(NAMES)}
    recipe = {"base": str(pool / "base"), "models": models, "merge": merge}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    write_merge(tmp_path / "recipe.yaml", tmp_path / "out")
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    objective = JsonlObjective({"items": "items.jsonl"}, folder=tmp_path)
    local = objective.evaluate(load_model(tmp_path / "out", device="cpu"), None).margins
    remote = [found[0] - max(found[1:]) for found in likelihoods(answer)]
    assert remote == pytest.approx(local, abs=1e-5)


def test_without_merge_it_is_the_base_whatever_came_before(server: Server) -> None:
    _, base = server.post("/v1/score", {"items": ITEMS})
    _, mix = server.post("/v1/score", {"items": ITEMS, "merge": MERGES[0]})
    _, zero = server.post(
        "/v1/score",
        {"items": ITEMS, "merge": {"method": "task_arithmetic", "parameters": {"weight": 0}}},
    )
    _, again = server.post("/v1/score", {"items": [*ITEMS, {"continuations": ["new"]}]})
    assert likelihoods(base) == likelihoods(zero) == likelihoods(again)[:2]
    assert likelihoods(mix) != likelihoods(base)
    assert mix["mix"] != base["mix"] == again["mix"]
    assert mix["build"] == base["build"]


def test_models_are_a_part_of_the_pool_in_the_order_of_arithmetic(server: Server) -> None:
    merge = {"method": "task_arithmetic", "parameters": {"weight": {"math": 0.5}}}
    _, one = server.post("/v1/score", {"items": ITEMS, "models": ["math"], "merge": merge})
    full = {"weight": {"math": 0.5, "code": 0, "chat": 0}}
    _, all_of_them = server.post(
        "/v1/score", {"items": ITEMS, "merge": {**merge, "parameters": full}}
    )
    assert likelihoods(one) == likelihoods(all_of_them)


def test_completions_are_shaped_as_openai_has_them(server: Server) -> None:
    body = {"prompt": "ab", "max_tokens": 4, "logprobs": 2, "echo": True, "merge": MERGES[1]}
    status, answer = server.post("/v1/completions", body)
    assert status == 200
    (choice,) = answer["choices"]
    assert choice["text"].startswith("ab")
    named = choice["logprobs"]
    assert named["tokens"][:2] == ["a", "b"]
    assert named["token_logprobs"][0] is None
    assert all(value <= 0 for value in named["token_logprobs"][1:])
    assert [len(top) for top in named["top_logprobs"][1:]] == [2] * (len(named["tokens"]) - 1)
    greedy = [max(top.values()) for top in named["top_logprobs"][2:]]
    assert named["token_logprobs"][2:] == pytest.approx(greedy)
    assert answer["usage"]["prompt_tokens"] == 2


def test_echo_judges_the_prompt_as_score_judges_a_continuation(server: Server) -> None:
    body = {"prompt": "2+2= 4", "max_tokens": 0, "echo": True, "logprobs": 0, "merge": MERGES[0]}
    _, answer = server.post("/v1/completions", body)
    _, scored = server.post("/v1/score", {"items": ITEMS, "merge": MERGES[0]})
    last = answer["choices"][0]["logprobs"]["token_logprobs"][-2:]  # the space and the 4
    assert sum(last) == pytest.approx(likelihoods(scored)[0][0], abs=1e-5)


def test_the_outline_and_the_list_of_models(server: Server) -> None:
    _, models = server.get("/v1/models")
    assert [entry["id"] for entry in models["data"]] == ["evomerge", *sorted(NAMES)]
    _, told = server.get("/v1/outline")
    base, *others = told["outlines"]
    assert base["tensors"]["model.layers.0.mlp.down_proj.weight"] == ["F32", [16, 24]]
    assert [outline["name"] for outline in others] == sorted(NAMES)
    assert len({outline["digest"] for outline in told["outlines"]}) == 4


REFUSED: dict[str, tuple[str, object, int, str]] = {
    "no JSON": ("/v1/score", b"{", 400, "not valid JSON"),
    "NaN": ("/v1/score", b'{"items": NaN}', 400, "NaN is not JSON"),
    "no object": ("/v1/score", [], 400, "no JSON object"),
    "a key misspelt": ("/v1/score", {"itmes": []}, 400, "did you mean 'items'"),
    "no items": ("/v1/score", {"items": []}, 400, "1 to 64"),
    "an empty continuation": ("/v1/score", {"items": [{"continuations": [""]}]}, 400, "empty"),
    "too long": ("/v1/score", {"items": [{"continuations": ["x" * 99]}]}, 400, "64 at most"),
    "no merge": ("/v1/score", {"items": ITEMS, "merge": 3}, 400, "merge is 3"),
    "an unknown model": ("/v1/score", {"items": ITEMS, "models": ["maths"]}, 400, "mean 'math'"),
    "a model twice": ("/v1/score", {"items": ITEMS, "models": ["math"] * 2}, 400, "twice"),
    "a path as a model": ("/v1/score", {"items": ITEMS, "models": ["../x"]}, 400, "no model"),
    "an unknown adapter's weight": (
        "/v1/score",
        {"items": ITEMS, "merge": {"parameters": {"weight": {"physics": 1}}}},
        400,
        "no model 'physics'",
    ),
    "an unknown group": (
        "/v1/score",
        {"items": ITEMS, "merge": {"parameters": {"math/7/weight": 1}}},
        400,
        "math/7/weight",
    ),
    "an infinite weight": (
        "/v1/score",
        b'{"items": [{"continuations": ["a"]}], "merge": {"parameters": {"weight": 1e999}}}',
        400,
        "inf",
    ),
    "a density of 2": (
        "/v1/score",
        {"items": ITEMS, "merge": {"parameters": {"density": 2}}},
        400,
        "2 stands here; a number above 0 and 1 or less",
    ),
    "an unknown method": (
        "/v1/score",
        {"items": ITEMS, "merge": {"method": "magic"}},
        400,
        "magic",
    ),
    "a pattern": (
        "/v1/score",
        {"items": ITEMS, "merge": {"groups": {"regex": {"x": "(a+)+$"}}}},
        400,
        "regex is not taken",
    ),
    "a base": ("/v1/score", {"items": ITEMS, "base": "/etc/passwd"}, 400, "unknown key 'base'"),
    "nested deeply": (
        "/v1/score",
        {"items": ITEMS, "merge": {"groups": [[[[[[[[[[[[[[1]]]]]]]]]]]]]]}},
        400,
        "nests",
    ),
    "sampling": ("/v1/completions", {"prompt": "a", "temperature": 1}, 400, "temperature"),
    "a stream": ("/v1/completions", {"prompt": "a", "stream": True}, 400, "stream"),
    "nothing": ("/v1/completions", {"prompt": "a", "max_tokens": 0}, 400, "nothing"),
    "another model": ("/v1/completions", {"prompt": "a", "model": "gpt"}, 404, "no model 'gpt'"),
    "another page": ("/v1/embeddings", {}, 404, "/v1/embeddings"),
    "a large body": ("/v1/score", b" " * 1_000_001, 413, "1000000"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_why(case: str, server: Server) -> None:
    path, body, status, text = REFUSED[case]
    found, answer = server.post(path, body)
    assert found == status
    assert text in answer["error"]["message"]


def test_only_a_key_lets_in(server: Server) -> None:
    assert server.get("/health", authorization="")[0] == 200
    for wrong in ("", "Bearer", "Bearer wrong", f"Bearer {KEY}x", "Basic x"):
        for path in ("/v1/models", "/v1/score", "/nowhere"):
            status, answer = server.get(path, authorization=wrong)
            assert status == 401
            assert KEY not in json.dumps(answer)
    assert server.get("/v1/models", authorization="Bearer another")[0] == 200


def test_a_page_says_how_it_is_asked(server: Server) -> None:
    assert server.get("/v1/score")[0] == 405
