"""A campaign that fuses logits, from its file to an answer of what was exported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evomerge.cli.app import run
from evomerge.demo.checkpoints import write_model
from evomerge.errors import StudyMismatchError, UsageError
from evomerge.export.front import export
from evomerge.export.manifest import read_manifest, verify
from evomerge.objectives.jsonl import JsonlObjective
from evomerge.objectives.llama import Llama, initialise
from evomerge.objectives.llama_config import LlamaConfig
from evomerge.objectives.logit_fusion import Ensemble
from evomerge.objectives.models import load_model
from evomerge.objectives.tokens import ByteTokenizer
from evomerge.recipe.campaign import Campaign
from evomerge.recipe.logit_fusion import FusionFile
from evomerge.recipe.preflight import preflight
from evomerge.study.study import Study
from evomerge.trial import Scores

TOKENIZER = ByteTokenizer.new(eos_token="</s>")
SHAPE = LlamaConfig(
    vocab_size=TOKENIZER.vocab_size,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    eos_token_id=(256,),
)
CAMPAIGN = """
base: base
models: {math: math, code: code}
logit_fusion: {large: large, mode: matched}
merge: {method: task_arithmetic, groups: {layers: all}, weight: [-0.5, 2.0], scaling: {fixed: 1}}
goals:
  - {metric: sums, objective: {type: jsonl, items: sums.jsonl, metrics: probability}}
  - {metric: words, objective: {type: jsonl, items: words.jsonl, metrics: log_likelihood}}
sampler: random
budget: {trials: 6}
study: study
export: {to: merged}
"""
SUMS = [
    {"prompt": f"{a}+{b}=", "choices": [str(a + b), str(a + b + 1)], "answer": 0}
    for a in range(3)
    for b in range(3)
]
WORDS = [{"prompt": f"say {word}", "answer": word} for word in ("a", "bc", "def", "x y", "z")]


def lines(path: Path, items: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, items and the campaign file."""
    folder = tmp_path_factory.mktemp("fusion")
    shapes = dict.fromkeys(("base", "math", "code"), SHAPE)
    shapes["large"] = replace(SHAPE, num_hidden_layers=2, hidden_size=24, head_dim=12)
    for seed, (name, shape) in enumerate(shapes.items()):
        model = Llama(shape)
        initialise(model, torch.Generator().manual_seed(seed))
        for parameter in model.parameters():
            parameter.data.mul_(4)
        write_model(model, TOKENIZER, folder / name, name=name, meaning="Random.")
    lines(folder / "sums.jsonl", SUMS)
    lines(folder / "words.jsonl", WORDS)
    (folder / "campaign.yaml").write_text(CAMPAIGN)
    return folder


@pytest.fixture(scope="module")
def study(place: Path) -> Path:
    """The campaign's study, run to its end."""
    command = [sys.executable, "-m", "evomerge", "run", "campaign.yaml"]
    done = subprocess.run(
        command, cwd=place, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return place / "study"


def edited(place: Path, *pairs: tuple[str, str]) -> Campaign:
    text = CAMPAIGN
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return Campaign.parse(text, place / "campaign.yaml")


def errors(campaign: Campaign) -> list[str]:
    return [f"{f.about}: {f.text}" for f in preflight(campaign) if f.severity == "error"]


def test_the_references_are_the_large_model_and_each_model_at_weight_1(
    place: Path, study: Path
) -> None:
    objective = JsonlObjective({"items": "sums.jsonl", "metrics": "probability"}, folder=place)
    campaign = Campaign.load(place / "campaign.yaml")
    assert campaign.logit_fusion is not None
    models = campaign.recipe.models
    ensemble = Ensemble.load(campaign.logit_fusion, campaign.recipe.base, models, dtype=None)
    wanted = {
        0: load_model(place / "large"),
        1: ensemble.at({"math": 1.0, "code": 0.0}),
        2: ensemble.at({"math": 0.0, "code": 1.0}),
        3: ensemble.at({"math": 0.5, "code": 0.5}),
    }
    with Study.read(study) as opened:
        for number, model in wanted.items():
            found = objective.evaluate(model, opened.items("sums", "search"))
            assert isinstance(found, Scores)
            measured = opened.scores(number, "search", "sums")
            assert list(measured.items) == list(found.items)
            assert list(measured.margins or ()) == list(found.margins or ())


def test_what_is_exported_answers_as_it_was_measured(
    place: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Study.read(study) as opened:
        (folder,) = export(opened, tmp_path, trial=5)
        assert verify(folder) == []
        manifest = read_manifest(folder)
        assert manifest["form"] == ["logit_fusion", "matched"]
        assert manifest["large"]["shards"]
        file = FusionFile.load(folder)
        parameters = opened.trial(5).candidate.parameters
        assert file.weights == {name.partition("/")[0]: w for name, w in parameters.items()}
        assert export(opened, tmp_path, trial=5) == [folder]  # it is there, and whole
        measured = opened.scores(5, "search", "words")
        chosen = opened.items("words", "search")
    model = Ensemble.of_file(file).at(file.weights)
    options = {"items": "words.jsonl", "metrics": "log_likelihood"}
    again = JsonlObjective(options, folder=place).evaluate(model, chosen)
    assert isinstance(again, Scores)
    assert list(again.items) == list(measured.items)
    # The runner's answer is one that `exact_match` takes for right, and no other is.
    assert run(["answer", str(folder), "say a", "--max-new-tokens", "4"]) == 0
    answer = capsys.readouterr().out.removesuffix("\n")
    lines(tmp_path / "said.jsonl", [{"prompt": "say a", "answer": answer or "nothing"}])
    options = {"items": "said.jsonl", "max_new_tokens": 4, "stop": "never said"}
    judged = JsonlObjective(options, folder=tmp_path).evaluate(model, None)
    assert isinstance(judged, Scores)
    assert list(judged.items) == [float(bool(answer))]


def test_the_front_names_the_large_model_and_writes_every_fusion(place: Path, study: Path) -> None:
    rows = json.loads((place / "merged" / "front.json").read_text())
    for row in rows:
        own = row["origin"] == "base"
        path = Path(row["path"]) if own else place / "merged" / row["path"] / "fusion.yaml"
        assert path.exists()
        assert not own or path == place / "large"


@pytest.mark.parametrize("option", ["--lora", "--dtype=bfloat16"])
def test_there_are_no_weights_to_export(
    study: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(study), str(tmp_path / "out"), "--trial", "5", option]) == 2
    assert "this study fuses logits: there is no merge to be written as" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_large_model_is_another_study(place: Path, study: Path, tmp_path: Path) -> None:
    shard = next((place / "large").glob("*.safetensors"))
    before = shard.read_bytes()
    try:
        shard.write_bytes(before[:-4] + b"\0\0\0\0")
        with (
            Study.read(study) as opened,
            pytest.raises(StudyMismatchError, match=r"logit_fusion\.large: .* has changed"),
        ):
            export(opened, tmp_path, trial=5)
    finally:
        shard.write_bytes(before)


def test_the_check_of_the_campaign_finds_nothing_wrong(place: Path) -> None:
    findings = preflight(Campaign.load(place / "campaign.yaml"))
    assert [f for f in findings if f.severity == "error"] == []
    assert any("4 models of" in f.text for f in findings)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("task_arithmetic", "ties", "merge: a fusion has one weight per model: .*ties"),
        ("layers: all", "layers: 1, modules: [attention, mlp]", "merge: a fusion has one weight"),
        ("type: jsonl, items: sums.jsonl, metrics: probability", "type: python, function: a:b",
         "goal sums: it wants one merged model"),
        ("export: {to: merged}", "export: {to: merged, form: lora}", "export: a fusion of logits"),
        ("large: large", "large: nowhere", "logit_fusion: "),
        ("study: study", "study: study\nloader: a.py:b", "loader: logit fusion loads its models"),
    ],
)  # fmt: skip
def test_the_check_refuses(place: Path, old: str, new: str, message: str) -> None:
    found = errors(edited(place, (old, new)))
    assert any(re.match(message, one) for one in found), found


def test_keys_are_strict(place: Path) -> None:
    with pytest.raises(UsageError, match=r"logit_fusion\.mode: 'match' .* did you mean 'matched'"):
        edited(place, ("mode: matched", "mode: match"))
    with pytest.raises(UsageError, match=r"logit_fusion\.large is missing"):
        edited(place, ("large: large, ", ""))
    with pytest.raises(UsageError, match=r"study lies inside the folder of 'logit_fusion\.large'"):
        edited(place, ("study: study", "study: large/study"))


def test_a_file_that_is_no_fusion_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fusion.yaml"
    path.write_text("{base: base, models: {}}")
    with pytest.raises(UsageError, match="logit_fusion is missing"):
        FusionFile.load(path)
    path.write_text("{logit_fusion: {large: l}, base: b, models: {m: {path: m, weight: nan}}}")
    with pytest.raises(UsageError, match=r"models\.m\.weight"):
        FusionFile.load(path)
    path.write_text("{logit_fusion: {large: l}, base: b, models: {m: {path: m, weight: 1}}, x: 1}")
    with pytest.raises(UsageError, match="unknown key 'x'"):
        FusionFile.load(path)
