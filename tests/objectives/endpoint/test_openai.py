"""OpenAI-compatible servers: a tiny model behind one scores as it does at home."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.coefficients import Coefficients
from evomerge.errors import UsageError
from evomerge.objectives.endpoint.completions import (
    Token,
    Written,
    continuation,
    label_nats,
    written,
    written_margin,
)
from evomerge.objectives.endpoint.failures import EndpointDownError
from evomerge.objectives.jsonl import JsonlObjective
from evomerge.objectives.matching import Matcher
from evomerge.objectives.models import load_model
from evomerge.objectives.openai import OpenaiObjective
from tests.conftest import Loopback, as_json, served
from tests.objectives.endpoint.openai_server import FolderServer

Write = Callable[..., Path]
CHOICES = [
    {"prompt": f"{a}+{b}=", "choices": [str(a + b), str(a + b + 1), "lots"], "answer": a % 3}
    for a in range(3)
    for b in range(2)
]


@pytest.fixture
def folder(make_folder: Callable[..., Path]) -> Path:
    """A model that writes printable ASCII, so that what it generates is text."""

    def printable(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"][:32] = tensors["lm_head.weight"][127:] = 0

    return make_folder(tensors=printable)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with served(Loopback(FolderServer())) as made:
        yield made


def objective(server: Loopback, items: Path, **options: Any) -> OpenaiObjective:
    given = {"url": server.url, "model": "{folder}", "items": items.name, **options}
    given.setdefault("connection", {"retries": 0})
    return OpenaiObjective(given, folder=items.parent)


def local(items: Path, model: Path, **options: Any) -> Any:
    made = JsonlObjective({"items": items.name, **options}, folder=items.parent)
    return made.evaluate(load_model(model, device="cpu"), None)


@pytest.mark.parametrize("metric", ["accuracy", "probability", "accuracy_norm"])
def test_echoed_choices_score_as_the_local_model_does(
    metric: str, server: Loopback, folder: Path, write_items: Write
) -> None:
    items = write_items(*CHOICES)
    wanted = local(items, folder, metrics=metric)
    found = objective(server, items, metrics=metric).evaluate(folder, None)
    assert list(found.items) == pytest.approx(list(wanted.items), abs=1e-4)
    assert list(found.margins) == pytest.approx(list(wanted.margins), abs=1e-4)


def test_echoed_texts_with_worked_examples_score_as_the_local_model_does(
    server: Loopback, folder: Path, write_items: Write
) -> None:
    texts = write_items({"text": "It was"}, {"prompt": "So:", "text": "the best"})
    assert list(objective(server, texts).evaluate(folder, [1, 0]).items) == pytest.approx(
        list(local(texts, folder).items)[::-1], abs=1e-4
    )
    answers = write_items(
        {"prompt": "7*6=", "answer": ["42", "4 2"]}, {"prompt": "2*2=", "answer": "4"},
        name="answers.jsonl",
    )  # fmt: skip
    options = {"metrics": "log_likelihood", "shots": 1, "system": "Sums."}
    wanted = local(answers, folder, **options)
    found = objective(server, answers, scoring="echo", **options).evaluate(folder, None)
    assert list(found.items) == pytest.approx(list(wanted.items), abs=1e-4)


def test_echoed_answers_are_written_too_and_have_the_local_margins(
    server: Loopback, folder: Path, write_items: Write
) -> None:
    items = write_items({"prompt": "a", "answer": ["x", "yy"]}, {"prompt": "b", "answer": "nope"})
    options = {"metrics": "f1", "max_new_tokens": 2}
    wanted = local(items, folder, **options)
    found = objective(server, items, scoring="echo", **options).evaluate(folder, None)
    assert list(found.items) == list(wanted.items)
    assert list(found.margins) == pytest.approx(list(wanted.margins), abs=1e-4)
    assert found.rates == wanted.rates


def test_written_answers_score_as_the_local_model_does(
    server: Loopback, folder: Path, write_items: Write
) -> None:
    first = local(write_items({"prompt": "a", "answer": "x"}), folder)
    assert first.items == [0.0]
    greedy = server.reply(
        {"model": str(folder), "prompt": "a", "max_tokens": 3, "temperature": 0, "logprobs": 2}, ""
    )[2]
    text = written(json.loads(greedy)).text
    items = write_items({"prompt": "a", "answer": text}, {"prompt": "b", "answer": "nope"})
    made = objective(server, items, max_new_tokens=3)
    found = made.evaluate(folder, None)
    assert list(found.items) == [1.0, 0.0]
    assert found.margins is not None and found.margins[0] > 0 > found.margins[1]
    assert found.rates == {"invalid": 0.5}, "the first has no end, the second can only be wrong"


@pytest.mark.parametrize(("api", "shape"), [("completions", "lists"), ("chat", "content")])
def test_labels_are_read_off_the_likeliest_next_tokens(
    api: str, shape: str, folder: Path, write_items: Write
) -> None:
    items = write_items(*CHOICES)
    with served(Loopback(FolderServer(shape=shape))) as server:
        made = objective(server, items, scoring="labels", api=api, top=250)
        found = made.evaluate(folder, [0])
        prompt = server.seen[0].get("prompt") or server.seen[0]["messages"][0]["content"]
    assert prompt == "0+0=\nA. 0\nB. 1\nC. lots\nAnswer:"
    live = load_model(folder, device="cpu")
    with torch.inference_mode():
        table = live.module(torch.tensor([live.tokenizer.encode(prompt)]))[0, -1].log_softmax(-1)
    a, b, c = (float(table[live.tokenizer.encode(x, special=False)[0]]) for x in "ABC")
    assert found.margins[0] == pytest.approx(a - max(b, c), abs=1e-4)


def test_a_server_that_ignores_echo_or_tells_no_probabilities_is_found_out(
    folder: Path, write_items: Write
) -> None:
    items = write_items(*CHOICES)
    with (
        served(Loopback(FolderServer(echoes=False))) as server,
        pytest.raises(EndpointDownError, match="does not honour `echo`"),
    ):
        objective(server, items).evaluate(folder, [0])
    with served(Loopback(FolderServer(shape="none"))) as server:
        with pytest.raises(EndpointDownError, match="use `scoring: match`"):
            objective(server, items, scoring="labels").evaluate(folder, [0])
        found = objective(server, items, scoring="match", max_new_tokens=2).evaluate(folder, [0])
        assert found.margins is None


def test_a_judge_gives_numbers_and_one_that_does_not_is_counted(
    folder: Path, write_items: Write
) -> None:
    said = iter(["8", "very good", "Score: 11"])

    def judge(body: Any, path: str) -> Any:
        assert path == "/chat/completions" and body["model"] == "large"
        assert "Reference answer:\nx\n" in body["messages"][0]["content"]
        choice = {"message": {"role": "assistant", "content": next(said)}, "finish_reason": "stop"}
        return as_json({"choices": [choice]})

    items = write_items(*({"prompt": p, "answer": "x"} for p in "abc"))
    with served(Loopback(FolderServer())) as server, served(Loopback(judge)) as other:
        made = objective(
            server, items, scoring="judge", max_new_tokens=2,
            judge={"model": "large", "url": other.url, "connection": {"concurrency": 1}},
        )  # fmt: skip
        found = made.evaluate(folder, None)
    assert list(found.items) == [0.8, 0.0, 0.0]
    assert found.rates == {"invalid": pytest.approx(2 / 3)}


def test_a_candidate_may_be_a_name_or_fields_that_the_server_mixes(write_items: Write) -> None:
    def reply(body: Any, path: str) -> Any:
        return as_json({"choices": [{"text": "4", "finish_reason": "stop"}]})

    items = write_items({"prompt": "2+2=", "answer": "4"})
    fields = {"weight": (0.5, -0.25), "scaling": 1.0}
    mix = Coefficients("task_arithmetic", ("math", "code"), {"all": fields}, {"all": (0,)})
    with served(Loopback(reply)) as server:
        made = objective(server, items, model="mix-{candidate}", extra={"lora": "{weights}"})
        assert made.needs == "coefficients"
        assert made.evaluate(mix, None).items == [1.0]
        (body,) = server.seen
    assert body["lora"] == {"math": 0.5, "code": -0.25}
    assert body["model"].startswith("mix-evm-") and len(body["model"]) == len("mix-evm-") + 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "fixed"}, "tells candidates apart"),
        ({"model": "{weigths}"}, "no place here"),
        ({"api": "chat", "scoring": "echo"}, "scoring is 'echo'"),
        ({"judge": {"model": "m"}}, "go together"),
        ({"metrics": "f1"}, "no metric 'f1'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, Any], message: str, write_items: Write
) -> None:
    with pytest.raises(UsageError, match=message):
        objective(Loopback(as_json, port=1), write_items(*CHOICES), **options)  # type: ignore[arg-type]


def test_a_text_is_scored_from_the_first_token_that_reaches_into_it() -> None:
    answer = {
        "choices": [{
            "text": "2+2= four!",
            "logprobs": {
                "tokens": ["<s>", "2+", "2= f", "our", "!"],
                "token_logprobs": [None, -1.0, -0.5, -0.25, -9.0],
            },
        }]
    }  # fmt: skip
    found = continuation(answer, "2+2= ", "four")
    # By hand: "2= f" reaches into it, "!" was written after it.
    assert found == (-0.75, 2)


def test_labels_by_spelling_and_by_what_only_one_begins_with() -> None:
    top = {" A": -1.0, "A": -1.0, "ye": -2.0, "zzz": -7.0}
    said = Written("A", "length", (Token("A", -1.0, top),))
    # Two spellings of one half each: ln(2/e); absent labels get the least of all.
    assert label_nats(said, ["A", "B"]) == pytest.approx([-1.0 + 0.6931472, -7.0])
    assert label_nats(said, ["yes", "no"]) == [-2.0, -7.0]
    assert label_nats(said, ["C", "D"]) is None


def test_the_margin_of_a_written_answer_is_its_smallest_lead_or_how_far_it_was_behind() -> None:
    tokens = (
        Token(" 4", -0.1, {" 4": -0.1, " 5": -2.1}),
        Token("2", -0.5, {"2": -0.5, "7": -0.9}),
        Token("\n", -0.2, {"\n": -0.2, "3": -0.21}),
    )
    said = Written(" 42\n", "stop", tokens)
    assert written_margin(said, Matcher(("42",), ("\n",))) == pytest.approx(0.4)
    assert written_margin(said, Matcher(("47",), ("\n",))) == pytest.approx(-0.4)
    assert written_margin(said, Matcher(("47", "9"), ("\n",))) == pytest.approx(-0.4)
    # Nothing among the likeliest goes on to 9: as far behind as the least of them.
    assert written_margin(said, Matcher(("9",), ("\n",))) == pytest.approx(-2.0)
