"""Any JSON API: what is sent, what is read, and what is refused before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.coefficients import Coefficients
from evomerge.errors import UsageError
from evomerge.objectives.endpoint.failures import EndpointError
from evomerge.objectives.endpoint.paths import Path as Place
from evomerge.objectives.endpoint.requests import filled
from evomerge.objectives.registry import make
from evomerge.objectives.template import TemplateObjective
from evomerge.trial import InvalidScoresError
from tests.conftest import Loopback, as_json, served

FIELDS = {"weight": (0.5, -0.25), "scaling": 2.0}
MIX = Coefficients(
    "task_arithmetic", ("math", "code"), {"a": FIELDS, "b": FIELDS}, {"a": (0,), "b": (1,)}
)
OPTIONS = {
    "path": "/v2/score",
    "items": "items.jsonl",
    "request": {
        "inputs": "Q: {item.question} {{A}}",
        "mix": {"weights": "{weight_list}", "math": "{weights.math}"},
        "names": ["{models}", "{index}"],
    },
    "score": "$.outputs[-1].score",
}


@pytest.fixture
def objective(tmp_path: Path) -> Callable[..., TemplateObjective]:
    (tmp_path / "items.jsonl").write_text('{"question": "2+2?", "answer": "4"}\n' * 2)

    def made(server: Loopback, **options: Any) -> TemplateObjective:
        given = {"url": server.url, "connection": {"retries": 0}, **OPTIONS, **options}
        found = make("template", given, folder=tmp_path)
        assert isinstance(found, TemplateObjective)
        return found

    return made


def scored(body: Any, path: str) -> Any:
    return as_json({"outputs": [{}, {"score": 0.25, "margin": -1.5, "text": " 4 "}]})


def test_a_request_is_filled_and_a_score_is_read(objective: Callable[..., Any]) -> None:
    with served(Loopback(scored)) as server:
        made = objective(server, margin="$.outputs[1].margin")
        found = made.evaluate(MIX, [1])
    assert (made.needs, made.count) == ("coefficients", 2)
    assert (found.items, found.margins) == ([0.25], [-1.5])
    # Weights are times scaling: 0.5 * 2 and -0.25 * 2.
    assert server.seen == [
        {
            "inputs": "Q: 2+2? {A}",
            "mix": {"weights": [1.0, -0.5], "math": 1.0},
            "names": [["math", "code"], 1],
        }
    ]


def test_a_text_is_compared_with_the_items(objective: Callable[..., Any]) -> None:
    with served(Loopback(scored)) as server:
        made = objective(server, score="$.outputs[1].text", match="{item.answer}")
        assert made.evaluate(MIX, [0, 1]).items == [1.0, 1.0]


def test_a_build_is_part_of_an_answers_address(objective: Callable[..., Any]) -> None:
    with served(
        Loopback(lambda body, path: as_json({"v": "b7"}) if body is None else scored(body, path))
    ) as server:
        made = objective(server, build={"path": "/version", "value": "$.v"})
        made.evaluate(MIX, [0])
        assert made.client.build == "b7"


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"outputs": []}, EndpointError, r"nothing at \$.outputs\[-1\].score"),
        ({"outputs": [{"score": "high"}]}, InvalidScoresError, "'high' at .* a number is wanted"),
    ],
)
def test_an_answer_of_another_shape_is_said_so(
    said: Any, error: type[Exception], message: str, objective: Callable[..., Any]
) -> None:
    with (
        served(Loopback(lambda body, path: as_json(said))) as server,
        pytest.raises(error, match=message),
    ):
        objective(server).evaluate(MIX, [0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"request": {"a": "{item.qestion}"}}, "no 'qestion' among"),
        ({"request": {"a": "{weihgts}"}}, "is no place here"),
        ({"request": {"a": "{"}}, "a lone brace"),
        ({"score": "outputs"}, "is no path"),
        ({"score": "$.a["}, "cannot be read from character 3"),
        ({"mixes": {"per": "tensor"}}, "one of model, layer, group"),
        ({"mixes": {"most": -1}}, "a number above 0"),
        ({"build": "/version"}, "build: "),
        ({"items": 0}, "a JSONL file or a positive count"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, Any], message: str, objective: Callable[..., Any]
) -> None:
    with pytest.raises(UsageError, match=message):
        objective(Loopback(scored, port=1), **options)


def test_a_place_alone_is_the_value_and_within_a_text_is_text() -> None:
    values = {"a": [1, {"b": None}]}
    assert filled(["{a}", "{a.0}", "<{a.1}>"], values) == [[1, {"b": None}], 1, '<{"b": null}>']
    assert Place.parse("$['odd key'][0]").of({"odd key": ["x"]}) == "x"
