"""A large model behind an API: like the one here where all is told, else within a bound of it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.cli.app import run
from evomerge.errors import CampaignError, UsageError
from evomerge.export.front import export
from evomerge.objectives.batches import Batches
from evomerge.objectives.endpoint.failures import EndpointDownError
from evomerge.objectives.generation import Prompt, greedy
from evomerge.objectives.jsonl import JsonlObjective
from evomerge.objectives.likelihood import Likelihoods
from evomerge.objectives.logit_fusion import Ensemble
from evomerge.objectives.models import load_model
from evomerge.objectives.remote_language import completed
from evomerge.objectives.request import Request
from evomerge.objectives.subject import LanguageModel, LiveModel
from evomerge.recipe.campaign import Campaign
from evomerge.recipe.logit_fusion import LogitFusion, Mode
from evomerge.recipe.preflight import preflight
from evomerge.study.loop import Ending
from evomerge.study.loop import run as run_study
from evomerge.study.study import Study
from tests.conftest import Loopback, as_json, served

SUMS = [{"prompt": "1+1=", "choices": ["2", "other"], "answer": 0}]
WORDS = [{"prompt": f"say {word}", "answer": word} for word in ("a", "bc")]
ALL = 1000


class Completions:
    """What OpenAI-compatible servers do, over a model that is here.

    Attributes:
        echoes: whether it honours ``echo``.
        ids: whether it writes tokens as vLLM's ``return_tokens_as_token_ids``.
        prompts: what it was asked so far, and whether to echo it.
    """

    def __init__(self, folder: Path, *, echoes: bool = True, ids: bool = True) -> None:
        model = load_model(folder).language
        assert model is not None
        self.model: LanguageModel = model
        self.echoes, self.ids = echoes, ids
        self.lock = threading.Lock()
        self.prompts: list[tuple[list[int], bool]] = []

    def name(self, token: int) -> str:
        return f"token_id:{token}" if self.ids else self.model.decode([token]) or "</s>"

    def __call__(self, body: Any, path: str) -> tuple[int, dict[str, str], bytes]:
        assert path == "/v1/completions" and body["max_tokens"] == 1 and body["temperature"] == 0
        ids = body["prompt"]
        with self.lock, torch.inference_mode():
            self.prompts.append((ids, body.get("echo", False)))
            logs = self.model.logits(torch.tensor([ids]), keep=len(ids))[0].log_softmax(-1)
        after = [*ids[1:], int(logs[-1].argmax())]  # what stands behind each token
        values, best = logs.topk(min(body["logprobs"], logs.shape[-1]))
        tops: list[Any] = [
            {self.name(t): v for t, v in zip(row.tolist(), nats.tolist(), strict=True)}
            for row, nats in zip(best, values, strict=True)
        ]
        nats: list[Any] = [float(row[token]) for row, token in zip(logs, after, strict=True)]
        if body.get("echo") and self.echoes:
            tokens, found, tops = [ids[0], *after], [None, *nats], [None, *tops]
        else:
            tokens, found, tops = after[-1:], nats[-1:], tops[-1:]
        told = {
            "tokens": [self.name(token) for token in tokens],
            "token_logprobs": found,
            "top_logprobs": tops,
        }
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
        choice = {"text": "", "finish_reason": "length", "logprobs": told}
        return as_json({"choices": [choice], "usage": usage})


@contextmanager
def remote(
    folders: dict[str, Path], mode: Mode = "static", server: Any = None, **options: Any
) -> Iterator[Ensemble]:
    with served(Loopback(server or Completions(folders["large"]))) as loopback:
        told = {"url": f"{loopback.url}/v1", "model": "large", "top": ALL,
                "connection": {"retries": 0}, **options}  # fmt: skip
        fusion = LogitFusion(None, mode, told)
        yield Ensemble.load(fusion, folders["base"], {"math": folders["math"]}, dtype=None)


def local(folders: dict[str, Path], mode: Mode = "static") -> Ensemble:
    fusion = LogitFusion(folders["large"], mode)
    return Ensemble.load(fusion, folders["base"], {"math": folders["math"]}, dtype=None)


def scored(model: LiveModel, items: Path) -> tuple[list[float], list[float]]:
    found = JsonlObjective({"items": str(items), "max_new_tokens": 3}, folder=items.parent)
    scores = found.evaluate(model, None)
    return list(scores.items), list(scores.margins or ())


def test_what_is_not_told_shares_what_is_left() -> None:
    found = completed({0: math.log(0.5), 2: math.log(0.3)}, 4)
    assert found.exp().tolist() == pytest.approx([0.5, 0.1, 0.3, 0.1])
    assert completed({0: math.log(0.5), 1: math.log(0.5)}, 2).tolist() == pytest.approx(
        [math.log(0.5)] * 2
    )
    # A token that no small model has counts as not told.
    assert completed({0: math.log(0.6), 9: math.log(0.3)}, 3).exp().tolist() == pytest.approx(
        [0.6, 0.2, 0.2]
    )


@pytest.mark.parametrize("mode", ["static", "matched"])
@pytest.mark.parametrize("echo", [True, False])
@pytest.mark.parametrize("items", [SUMS, WORDS], ids=["sums", "words"])
def test_a_server_that_tells_everything_is_as_good_as_the_model(
    mode: Mode,
    echo: bool,
    items: list[object],
    folders: dict[str, Path],
    write_items: Callable[..., Path],
) -> None:
    path = write_items(*items)
    wanted, margins = scored(local(folders, mode).at({"math": 0.7}), path)
    with remote(folders, mode, echo=echo) as far:
        found, near = scored(far.at({"math": 0.7}), path)
    assert found == wanted
    assert near == pytest.approx(margins, abs=1e-4)


@pytest.mark.parametrize("echo", [True, False])
def test_truncated_lists_err_within_the_bound(echo: bool, folders: dict[str, Path]) -> None:
    """The module's bound, place by place, for the 20 likeliest of 259 tokens."""
    weight, keep = 0.7, 5
    languages = [load_model(folders[name]).language for name in ("large", "base", "math")]
    exact = local(folders).at({"math": weight}).language
    assert exact is not None
    ids = torch.tensor([exact.encode("1+2=3, 2+2=")])
    with remote(folders, top=20, echo=echo) as far, torch.inference_mode():
        fused = far.at({"math": weight}).language
        assert fused is not None
        found = fused.logits(ids, keep=keep)[0].log_softmax(-1)
        wanted = exact.logits(ids, keep=keep)[0].log_softmax(-1)
        large, base, model = (one.logits(ids, keep=keep)[0] for one in languages if one)
    logs, shift = large.log_softmax(-1), weight * (model - base)
    for place in range(keep):
        told = set(logs[place].topk(20).indices.tolist())
        if echo and place < keep - 1:
            told.add(int(ids[0, ids.shape[1] - keep + place + 1]))
        rest = [token for token in range(logs.shape[-1]) if token not in told]
        p, s = logs[place].exp(), shift[place]
        left = float(p[rest].sum())
        assert left > 0.01, "nothing was cut off"
        sure = sum(float(p[t] * s[t].exp()) for t in told)
        low, high = (sure + left * math.exp(float(f(s[rest]))) for f in (torch.min, torch.max))
        errors = (found - wanted)[place].abs()
        assert float(errors[list(told)].max()) <= math.log(high / low) + 1e-5
        above = math.log(left) + s[rest] - math.log(low)
        assert bool((wanted[place][rest] <= above + 1e-5).all())


def test_tokens_are_known_by_their_text_where_it_is_theirs_alone(folders: dict[str, Path]) -> None:
    """Of a byte's 256 tokens, ASCII and the special ones are; the rest is left over."""
    exact = load_model(folders["large"]).language
    assert exact is not None
    ids = torch.tensor([exact.encode("1+2=")])
    server = Completions(folders["large"], ids=False)
    with remote(folders, server=server) as far, torch.inference_mode():
        language = far.at({"math": 0.0}).language
        assert language is not None
        found = language.logits(ids, keep=1)[0, 0]
        wanted = exact.logits(ids, keep=1)[0, 0].log_softmax(-1)
    known = list(range(128))
    assert torch.allclose(found[known], wanted[known], atol=1e-5)
    assert len(set(found[128:256].tolist())) == 1
    assert float(found.exp().sum()) == pytest.approx(1.0, abs=1e-4)


def test_what_a_server_does_not_do_is_said(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    ids = torch.tensor([[256, 49, 50]])
    with remote(folders, server=Completions(folders["large"], echoes=False)) as far:
        language = far.at({"math": 0.0}).language
        assert language is not None
        with pytest.raises(EndpointDownError, match="does not honour `echo`; say `echo: false`"):
            language.logits(ids, keep=2)
    with remote(folders, server=lambda body, path: as_json({"choices": [{"text": "x"}]})) as far:
        language = far.at({"math": 0.0}).language
        assert language is not None
        with pytest.raises(EndpointDownError, match="tells no log-probabilities"):
            language.logits(ids, keep=1)
    with remote(folders, top=1) as far:
        language = far.at({"math": 0.0}).language
        assert language is not None
        language.logits(ids, keep=1)
        language.logits(ids, keep=1)
    assert sum("of the probability untold" in one.message for one in caplog.records) == 1
    with pytest.raises(UsageError, match="echo is true or false"), remote(folders, echo="yes"):
        pass


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {"tokens": [], "token_logprobs": [], "top_logprobs": []},
        {"tokens": ["\ufffd"], "token_logprobs": [-0.1], "top_logprobs": [{"\ufffd": -0.1}]},
    ],
    ids=["ended", "ended with empty lists", "half a character"],
)
def test_a_place_where_no_token_is_told_is_spread_evenly(
    logprobs: Any, folders: dict[str, Path]
) -> None:
    choice = {"text": "", "finish_reason": "stop", "logprobs": logprobs}
    with remote(folders, server=lambda body, path: as_json({"choices": [choice]})) as far:
        language = far.at({"math": 0.0}).language
        assert language is not None
        found = language.logits(torch.tensor([[256, 49]]), keep=1)[0, 0]
    assert found.exp().tolist() == pytest.approx([1 / 259] * 259, rel=1e-3)


def test_an_echoed_prompt_may_end_at_once(folders: dict[str, Path]) -> None:
    def ended(body: Any, path: str) -> Any:
        logprobs = {
            "tokens": ["a", "b"],
            "token_logprobs": [None, math.log(0.9)],
            "top_logprobs": [None, {"b": math.log(0.9)}],
        }
        return as_json({"choices": [{"text": "ab", "finish_reason": "stop", "logprobs": logprobs}]})

    with remote(folders, server=ended) as far:
        language = far.at({"math": 0.0}).language
        assert language is not None
        first, last = language.logits(torch.tensor([[97, 98]]), keep=2)[0].exp()
    assert float(first[98]) == pytest.approx(0.9)
    assert float(last.max()) == pytest.approx(1 / 259)


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_writing_asks_once_for_each_token_that_is_written(
    weight: float, folders: dict[str, Path]
) -> None:
    """Not for the prompt's last tokens, for rows that are over, or for those that fill a batch."""
    server = Completions(folders["large"])
    prompts = [
        Prompt(tuple(range(40, 40 + length)), limit, lambda ids: False)
        for length, limit in ((1, 1), (1, 4), (9, 2), (12, 3), (16, 1))
    ]
    with remote(folders, server=server) as far, torch.inference_mode():
        model = far.at({"math": weight})
        found = greedy(model.causal, prompts, batches=Batches(4), device=model.device)
    wanted = []
    for prompt, text in zip(prompts, found, strict=True):
        ended = len(text) < prompt.limit
        wanted += [(*prompt.tokens, *text[:k]) for k in range(len(text) + ended)]
    unique = sorted(set(wanted))  # the first two prompts are one request
    assert sorted(server.prompts) == [(list(ids), False) for ids in unique]


@pytest.mark.parametrize("echo", [True, False])
def test_scoring_asks_for_what_is_scored_alone(echo: bool, folders: dict[str, Path]) -> None:
    """Not for padding, nor for rows of it; choices of one token behind a prompt cost one."""
    server = Completions(folders["large"])
    prompt = tuple(range(40, 60))
    sets = [
        [Request((*prompt, choice), 1) for choice in (97, 98, 99)],
        [Request((65, 66, 67), 1)],
        [Request((*prompt[:10], 65, 66, 67), 3)],
    ]
    with remote(folders, server=server, echo=echo) as far, torch.inference_mode():
        model = far.at({"math": 0.7})
        found = Likelihoods(model.causal, Batches(4), model.device).of(sets)
    text = [*prompt[:10], 65, 66]
    parts = [(text, True)] if echo else [(text[:end], False) for end in (10, 11, 12)]
    assert sorted(server.prompts) == sorted([([*prompt], False), ([65, 66], False), *parts])
    near = local(folders).at({"math": 0.7})
    with torch.inference_mode():
        wanted = Likelihoods(near.causal, Batches(4), near.device).of(sets)
    for one, other in zip(found, wanted, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert mine.logs == pytest.approx(theirs.logs, abs=1e-4)


CAMPAIGN = """
base: base
models: {{math: math}}
logit_fusion:
  large: {{url: "{url}/v1", model: large, top: 1000, api_key_env: FUSION_KEY,
           prices: {{prompt: 1}}}}
merge: {{method: task_arithmetic, groups: {{layers: all}}, weight: [0, 1], scaling: {{fixed: 1}}}}
goals: [{{metric: words, objective: {{type: jsonl, items: items.jsonl, max_new_tokens: 3}}}}]
sampler: random
budget: {{trials: 4, requests: 5000, money: 1}}
study: study
"""


def test_a_campaign_pays_for_the_large_model_and_exports_what_answers(
    folders: dict[str, Path],
    write_items: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_items(*WORDS, *WORDS, *WORDS).parent
    monkeypatch.setenv("FUSION_KEY", "sk-canary")
    with served(Loopback(Completions(folders["large"]))) as loopback:
        path = folder / "campaign.yaml"
        path.write_text(CAMPAIGN.format(url=loopback.url))
        campaign = Campaign.load(path)
        assert [one.about for one in preflight(campaign) if one.severity == "error"] == []
        with Study.open(path) as study:
            assert run_study(study).ending is Ending.FINISHED
            number = study.trials()[-1].number
            (out,) = export(study, folder / "out", trial=number)
            weight = study.trial(number).candidate.parameters["math/all/weight"]
        with Study.read(path) as study:
            spend = study.spend()
        assert spend.requests == loopback.requests > 0
        assert spend.money > 0
        told = json.loads((out / "fusion.yaml").read_text())
        assert told["logit_fusion"]["large"]["api_key_env"] == "FUSION_KEY"
        assert run(["answer", str(out), "say a", "--max-new-tokens", "3"]) == 0
    answer = capsys.readouterr().out.removesuffix("\n")
    items = write_items({"prompt": "say a", "answer": answer or "x"}, name="said.jsonl")
    judged, _ = scored(local(folders).at({"math": weight}), items)
    assert judged == [float(bool(answer))]
    held = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert b"sk-canary" not in held


def test_options_are_strict(tmp_path: Path) -> None:
    text = CAMPAIGN.format(url="http://127.0.0.1:1")
    path = tmp_path / "campaign.yaml"
    path.write_text(text.replace("api_key_env: FUSION_KEY", "api_key: sk-canary"))
    with pytest.raises(CampaignError, match="'api_key' is no option of a large model; did you"):
        Campaign.load(path)
    path.write_text(text.replace("model: large, ", ""))
    with pytest.raises(CampaignError, match="the large model's model is missing"):
        Campaign.load(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("headers: {Authorization: Bearer sk-canary}", "headers: Authorization is for secrets"),
        ("extra: {a: [{api_key: sk-canary}]}", "extra.a.api_key: secrets never stand"),
        ("api_key_header: 'X-Key: sk-canary'", "api_key_header is no header's name"),
        ("echo: sk-canary", "echo is true or false"),
    ],
)
def test_a_secret_is_refused_at_its_line_before_a_study_holds_it(
    given: str, message: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders["base"].parent
    path = folder / "campaign.yaml"
    text = CAMPAIGN.format(url="http://127.0.0.1:1")
    path.write_text(text.replace("           prices:", f"           {given}, prices:"))
    refuses_without_a_trace(path, 6, message, capsys)


def test_a_url_with_a_password_is_refused_at_its_line(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = folders["base"].parent / "campaign.yaml"
    path.write_text(CAMPAIGN.format(url="http://u:sk-canary@127.0.0.1:1"))
    refuses_without_a_trace(path, 5, "url holds a user name or a password", capsys)


def refuses_without_a_trace(
    path: Path, line: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", str(path)]) == CampaignError.exit_code
    said = "".join(capsys.readouterr())
    assert f"{path.name}:{line}:" in said and message in " ".join(said.split())
    path.unlink()
    held = b"".join(file.read_bytes() for file in path.parent.rglob("*") if file.is_file())
    assert b"canary" not in held and "canary" not in said


def test_a_url_in_the_environment_is_looked_up_by_check_alone(
    folders: dict[str, Path], write_items: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_items(*WORDS * 3).parent / "campaign.yaml"
    path.write_text(CAMPAIGN.format(url="$FUSION_URL").replace("FUSION_URL/v1", "FUSION_URL"))
    monkeypatch.setenv("FUSION_KEY", "any")
    monkeypatch.delenv("FUSION_URL", raising=False)
    found = [one.text for one in preflight(Campaign.load(path)) if one.severity == "error"]
    assert found == ["url: the environment variable FUSION_URL is not set"]
