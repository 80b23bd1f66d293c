"""What a look before the start finds, and that it finds nothing wrong where nothing is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from evomerge.recipe.campaign import Campaign
from evomerge.recipe.findings import Finding, in_bytes
from evomerge.recipe.model_checks import stated_license
from evomerge.recipe.preflight import preflight

from .conftest import CONFIG, Make, said, tensors

TEXT = """\
base: base
models: {math: math, code: code}
merge: {groups: {layers: 2, modules: [attention, mlp]}}
goals: [{metric: m, objective: {type: python, function: f.py:f, items: 10}}]
sampler: sobol
budget: {trials: 100}
export: {to: merged}
"""


def check(folder: Path, text: str = TEXT) -> list[Finding]:
    (folder / "f.py").write_text("def f(model, items):\n    return [0.0] * len(items)\n")
    return preflight(Campaign.parse(text, folder / "c.yaml"))


def three(make: Make) -> None:
    for name in ("base", "math", "code"):
        make(name)


def test_a_sound_campaign_has_neither_errors_nor_warnings(make: Make, tmp_path: Path) -> None:
    three(make)
    before = sorted(tmp_path.rglob("*"))
    findings = check(tmp_path)
    assert said(findings, "error") == []
    assert said(findings, "warning") == []
    infos = said(findings, "info")
    assert "space: 2 models x 4 tensor groups: 16 parameters" in infos
    assert "budget: 100 trials: 4 references, 96 proposals for 16 parameters" in infos
    assert "items: m: 10 items: search 6, selection 2, test 2" in infos
    assert "budget: up to 600 items are scored in 100 trials" in infos
    # A bit more than the 80 numbers of 4 bytes that a model has.
    assert any(line.startswith("disk: a merge takes ") for line in infos)
    written = {path.name for path in set(tmp_path.rglob("*")) - set(before)}
    assert written == {"f.py"}


def errors(make: Make, folder: Path, text: str = TEXT) -> list[str]:
    return said(check(folder, text), "error")


def test_all_broken_models_are_named_at_once(make: Make, tmp_path: Path) -> None:
    make("base")
    (tmp_path / "code").mkdir()
    found = errors(make, tmp_path)
    assert [line.split(":")[0] for line in found] == ["math", "code"]
    assert all(f.exit_code == 3 for f in check(tmp_path) if f.severity == "error")


def test_a_model_that_may_be_on_the_hub_says_how_to_get_it(make: Make, tmp_path: Path) -> None:
    three(make)
    (found,) = errors(make, tmp_path, TEXT.replace("math: math", "math: org/math"))
    assert "a model of the hub is written with its revision, org/math@main" in found


def test_shapes_that_differ(make: Make, tmp_path: Path) -> None:
    make("base")
    make("math", weights=tensors(1))
    make("code", weights=tensors() | {"model.norm.weight": torch.ones(3)})
    found = errors(make, tmp_path)
    assert len(found) == 2
    assert "'math' lacks" in found[0]
    assert "'model.norm.weight'" in found[1]


def test_numbers_that_are_not_finite(make: Make, tmp_path: Path) -> None:
    make("base")
    bad = tensors()
    bad["model.norm.weight"][0] = float("nan")
    bad["lm_head.weight"][0] = float("inf")
    make("math", weights=bad)
    make("code")
    (found,) = errors(make, tmp_path)
    assert "'math' has 3 NaN or infinite entries in " in found
    assert "'lm_head.weight'" in found


def warnings(folder: Path, text: str = TEXT) -> list[str]:
    return said(check(folder, text), "warning")


def test_tokens_and_templates_that_differ(make: Make, tmp_path: Path) -> None:
    make("base", template="{{ a }}")
    make("math", template="{{ b }}", tokenizer={"model": {"vocab": {"a": 0, "c": 1, "b": 2}}})
    make("code", tokenizer=None, template="{{ a }}")
    vocabulary, template = warnings(tmp_path)
    assert vocabulary.startswith("tokenizer: 'math' and the base differ in 4 entries")
    assert template.startswith("chat template: 'math' has a chat template that the base has not")


def test_a_template_inside_the_tokenizer_config(make: Make, tmp_path: Path) -> None:
    three(make)
    config = json.dumps({"chat_template": "{{ messages }}"})
    (tmp_path / "code/tokenizer_config.json").write_text(config)
    (found,) = warnings(tmp_path)
    assert found.startswith("chat template: 'code'")


def test_configs_that_differ_where_it_matters(make: Make, tmp_path: Path) -> None:
    make("base")
    make("math", config={**CONFIG, "rope_theta": 5e5, "torch_dtype": "float16"})
    make("code", config={**CONFIG, "_name_or_path": "x", "pad_token_id": 3})
    (found,) = warnings(tmp_path)
    assert found == "config: 'math' and the base differ in 'rope_theta'; merges get the base's"


def test_code_of_its_own_and_a_tied_head_that_is_stored(make: Make, tmp_path: Path) -> None:
    config = {**CONFIG, "tie_word_embeddings": True, "auto_map": {"AutoModel": "x.Y"}}
    for name in ("base", "math", "code"):
        make(name, config=config)
    code, tied = warnings(tmp_path)
    assert "never runs" in code
    assert tied.startswith("tied weights: the base stores 'lm_head.weight'")


def test_licences_that_differ_or_are_missing(make: Make, tmp_path: Path) -> None:
    make("base")
    make("math", card="---\ntags: [x]\nlicense: 'cc-by-nc-4.0'\n---\nlicense: no\n")
    make("code", card=None)
    findings = check(tmp_path)
    (found,) = said(findings, "warning")
    assert found.startswith("licences: base apache-2.0, math cc-by-nc-4.0; a merge has to meet")
    assert "licences: none is stated by code" in said(findings, "info")


@pytest.mark.parametrize(
    ("card", "stated"),
    [("license: mit", None), ("---\nlicense: mit\n---", "mit"), ("---\nlicence: x\n---\n", None)],
)
def test_a_licence_is_read_from_the_front_matter(
    tmp_path: Path, card: str, stated: str | None
) -> None:
    (tmp_path / "README.md").write_text(card)
    assert stated_license(tmp_path) == stated
    assert stated_license(tmp_path / "none") is None


def test_dtypes_that_differ_are_told(make: Make, tmp_path: Path) -> None:
    make("base", weights={name: t.bfloat16() for name, t in tensors().items()})
    make("math")
    make("code", weights={name: t.double() for name, t in tensors().items()})
    findings = check(tmp_path)
    assert said(findings, "error") == []
    infos = said(findings, "info")
    assert any(line.startswith("dtypes: base BF16, math F32, code F64;") for line in infos)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("trials: 100", "trials: 4", "budget: 4 trials do not reach beyond the 4 references"),
        ("trials: 100", "trials: 20", "budget: fewer proposals than parameters"),
        ("{groups: {layers", "{weight: 1, density: 1, groups: {layers", "every number is pinned"),
        ("code: code", "code: ./base", "models: code is the same folder as base"),
        ("budget:", "workers: 9\nbudget:", "workers: 9 workers, but a lookahead of 4 keeps only 5"),
    ],
)
def test_arithmetic_that_does_not_add_up(
    make: Make, tmp_path: Path, old: str, new: str, words: str
) -> None:
    three(make)
    assert old in TEXT
    assert any(words in line for line in warnings(tmp_path, TEXT.replace(old, new)))


def test_the_budget_says_what_becomes_of_many_models(make: Make, tmp_path: Path) -> None:
    three(make)
    nine = ", ".join(f"m{i}: math" for i in range(9))
    text = TEXT.replace("math: math, code: code", nine).replace("trials: 100", "trials: 10")
    assert (
        "budget: 10 trials: 2 references, 8 proposals for 72 parameters; the 9 models are not "
        "measured by themselves ('parents: measured' would take 9 trials)"
    ) in said(check(tmp_path, text), "info")
    assert (
        "budget: 10 trials do not reach beyond the 11 references that come first; nothing is "
        "searched; 'parents: unmeasured' leaves 9 of them out"
    ) in warnings(tmp_path, text + "parents: measured\n")
    assert (
        "budget: 2 trials do not reach beyond the 2 references that come first; nothing is "
        "searched; the 9 models are not measured by themselves ('parents: measured' would take 9 "
        "trials)"
    ) in warnings(tmp_path, text.replace("trials: 10", "trials: 2"))


@pytest.mark.parametrize(
    ("trials", "sampler", "helps"),
    [(3, "sobol", True), (2, "sobol", False), (3, "kinship", False)],
)
def test_leaving_models_out_is_proposed_only_where_it_helps(
    make: Make, tmp_path: Path, trials: int, sampler: str, helps: bool
) -> None:
    """Base and average take two trials; samplers that begin with the models ask for them."""
    three(make)
    text = TEXT.replace("trials: 100", f"trials: {trials}").replace("sobol", sampler)
    (line,) = [line for line in warnings(tmp_path, text) if "do not reach" in line]
    assert ("'parents: unmeasured' leaves 2 of them out" in line) is helps


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("layers: 2", "layers: 3", "recipe: {file}:3:26: 3 bands are asked of 2 layers"),
        ("f.py:f,", "g.py:f,", "g.py: the function's file cannot be read"),
        ("items: 10", "items: 2", "goal m: {file}:4:32: 2 items cannot be split into 3 parts"),
        ("type: python, function: f.py:f, items: 10", "type: jsonl, items: none", "none"),
        ("items: 10", "itmes: 10", "itmes"),
        ("sampler: sobol", "sampler: {name: sobol, none: 3}", "sampler: "),
    ],
)
def test_what_only_making_it_can_find(
    make: Make, tmp_path: Path, old: str, new: str, words: str
) -> None:
    three(make)
    assert old in TEXT
    (found,) = errors(make, tmp_path, TEXT.replace(old, new))
    assert words.format(file=tmp_path / "c.yaml") in found


def test_a_bare_file_is_no_language_model(make: Make, tmp_path: Path) -> None:
    three(make)
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n' * 5)
    text = TEXT.replace("type: python, function: f.py:f, items: 10", "type: jsonl, items: x.jsonl")
    text = text.replace("base: base", "base: base/model.safetensors")
    (found,) = errors(make, tmp_path, text)
    assert "no language model can be made of it; name a loader" in found


def test_outputs_that_cannot_be_written(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three(make)
    (tmp_path / "closed").mkdir()
    allowed = os.access

    def access(path: Path, mode: int) -> bool:  # root may write everywhere
        return Path(path) != tmp_path / "closed" and allowed(path, mode)

    monkeypatch.setattr(os, "access", access)
    (found,) = errors(make, tmp_path, TEXT.replace("merged", "closed/merged"))
    assert found == f"export: {tmp_path / 'closed'} is not writable"


def test_an_output_below_a_file(make: Make, tmp_path: Path) -> None:
    three(make)
    (tmp_path / "file").touch()
    found = [f for f in check(tmp_path, TEXT.replace("merged", "file/x")) if f.severity == "error"]
    assert [(f.about, f.exit_code) for f in found] == [("export", 4)]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (4.81e9, "4.81 GB")]
)
def test_sizes_are_for_people(count: float, text: str) -> None:
    assert in_bytes(count) == text
