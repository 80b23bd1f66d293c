"""Bad campaign files: each is refused at its line and column, with what is allowed instead."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from evomerge.errors import CampaignError, PluginError, UsageError
from evomerge.recipe.campaign import Campaign

GOOD = """\
base: models/base
models:
  math: models/math
  code: models/code
  chat: {path: models/chat, weight: {fixed: 0.3}}
merge:
  method: sparse_signed
  groups: {layers: 4, modules: [attention, mlp]}
  density: [0.05, 1.0]
  split_signs: false
goals:
  - {metric: gsm8k, objective: {type: jsonl, items: x.jsonl}, direction: maximize}
  - {metric: refusals, objective: {type: python, function: f.py:f}, limit: 0.05}
items: {search: 60%, selection: 20%, test: 20%, seed: 0}
sampler: auto
budget: {trials: 200, hours: 12}
study: runs/demo.evomerge
engine: local
export: {to: merged/, which: front, dtype: bfloat16, shard_size: 5GB}
"""


@dataclass(frozen=True)
class Bad:
    """GOOD with one edit; the place and some words of the error."""

    old: str
    new: str
    place: str
    words: str
    error: type[UsageError] = CampaignError


CASES = {
    # A key misspelt, at each level.
    "base misspelt": Bad(
        "base:", "bsae:", "1:1", "base is missing: the folder of the base model; is 'bsae'"
    ),
    "top key misspelt": Bad(
        "export:", "exprt:", "19:1", "unknown key 'exprt'; did you mean 'export'?"
    ),
    "model key misspelt": Bad(
        "weight: {fixed",
        "wieght: {fixed",
        "5:29",
        "'wieght' in models.chat; did you mean 'weight'?",
    ),
    "bands where every tensor is a group": Bad(
        "{layers: 4, modules: [attention, mlp]}",
        "{per: tensor, layers: 4}",
        "8:25",
        "every tensor is a group of its own",
    ),
    "following where there are no bands": Bad(
        "{layers: 4, modules: [attention, mlp]}",
        "{per: tensor, norms: follow}",
        "8:32",
        "own",
    ),
    "model path misspelt": Bad("path:", "pth:", "5:10", "models.chat.path is missing"),
    "pin misspelt": Bad("{fixed", "{fxied", "5:38", "did you mean 'fixed'?"),
    "merge key misspelt": Bad(
        "density:", "densty:", "9:3", "'densty' in merge; did you mean 'density'?"
    ),
    "key of another method": Bad("density:", "scaling:", "9:3", "unknown key 'scaling' in merge"),
    "groups key misspelt": Bad(
        "modules:", "module:", "8:23", "'module' in merge.groups; did you mean 'modules'?"
    ),
    "goal key misspelt": Bad(
        "direction:", "dirction:", "12:63", "'dirction' in goals[0]; did you mean 'direction'?"
    ),
    "metric misspelt": Bad("metric:", "metrik:", "12:6", "goals[0].metric is missing"),
    "objective type misspelt": Bad("type:", "typ:", "12:33", "goals[0].objective.type is missing"),
    "budget key misspelt": Bad("hours:", "hour:", "16:23", "did you mean 'hours'?"),
    "items key misspelt": Bad("seed: 0", "sead: 0", "14:49", "did you mean 'seed'?"),
    "export key misspelt": Bad("shard_size:", "shardsize:", "19:54", "did you mean 'shard_size'?"),
    "goals missing": Bad(
        "goals:", "gaols:", "11:1", "goals is missing: a list of goals; is 'gaols' meant"
    ),
    # Ranges and numbers.
    "range upside down": Bad(
        "[0.05, 1.0]", "[1.0, 0.05]", "9:12", "merge.density: the range [1, 0.05] is upside down"
    ),
    "range with NaN": Bad("[0.05, 1.0]", "[.nan, 1.0]", "9:13", "merge.density: nan stands here"),
    "range that is one point": Bad("[0.05, 1.0]", "[0.5, 0.5]", "9:12", "{fixed: 0.5}"),
    "range with one end": Bad("[0.05, 1.0]", "[0.05]", "9:12", "a range is [low, high]"),
    "density 0": Bad("[0.05, 1.0]", "[0, 1.0]", "9:13", "a number above 0 and 1 or less"),
    "density fixed at 0": Bad("[0.05, 1.0]", "0.0", "9:12", "a number above 0 and 1 or less"),
    "density in percent": Bad("[0.05, 1.0]", "[5, 100]", "9:13", "a number above 0 and 1 or less"),
    "density in words": Bad(
        "[0.05, 1.0]", "half", "9:12", "'half' stands here; a number is wanted"
    ),
    "weight infinite": Bad("fixed: 0.3", "fixed: .inf", "5:45", "inf stands here"),
    "negative weight of an average": Bad(
        "sparse_signed", "linear\n  weight: [-1, 1]", "8:12", "a number 0 or more"
    ),
    "negative budget": Bad("trials: 200", "trials: -3", "16:18", "a whole number, 1 or more"),
    "budget of half a trial": Bad(
        "trials: 200", "trials: 2.5", "16:18", "a whole number, 1 or more"
    ),
    "no time at all": Bad("hours: 12", "hours: 0", "16:30", "a number above 0"),
    "no end": Bad("{trials: 200, hours: 12}", "{}", "16:9", "the budget has no end"),
    "no budget": Bad("budget: {trials: 200, hours: 12}\n", "", "1:1", "budget is missing"),
    "budget is a number": Bad(
        "{trials: 200, hours: 12}", "200", "16:9", "a mapping of keys to values"
    ),
    "negative seed": Bad("engine: local", "seed: -1", "18:7", "a whole number, 0 or more"),
    "no workers": Bad("engine: local", "workers: 0", "18:10", "a whole number, 1 or more"),
    "a time in words": Bad("engine: local", "timeout: soon", "18:10", "90s, 10m, 2h"),
    "yes is text": Bad(
        "engine: local", "isolate: yes", "18:10", "'yes' stands here; true or false"
    ),
    # Names.
    "unknown sampler": Bad("auto", "nsga5", "15:10", "did you mean 'nsga3'?", PluginError),
    "sampler that is refused": Bad("auto", "nevergrad:NGOpt", "15:10", "is refused", PluginError),
    "unknown method": Bad(
        "sparse_signed", "sparse_singed", "7:11", "did you mean 'sparse_signed'?", PluginError
    ),
    "unknown objective": Bad("jsonl", "jsnl", "12:39", "did you mean 'jsonl'?", PluginError),
    "unknown direction": Bad("maximize", "maximise", "12:74", "did you mean 'maximize'?"),
    "unknown dtype": Bad(
        "bfloat16", "int8", "19:44", "allowed: bfloat16, float16, float32, float64"
    ),
    "unknown unit": Bad("5GB", "5 gigs", "19:66", "a size such as 5GB"),
    "unknown rule": Bad(
        "modules: [attention, mlp]", "norms: folow", "8:30", "did you mean 'follow'?"
    ),
    "unknown module kind": Bad("[attention, mlp]", "[attn]", "8:33", "did you mean 'attention'?"),
    # Models, ties, goals, items.
    "zero models": Bad(
        "  math: models/math\n  code: models/code\n"
        "  chat: {path: models/chat, weight: {fixed: 0.3}}\n",
        "  {}\n",
        "3:3",
        "at least one",
    ),
    "models is a list": Bad(
        "models:\n", "models: []\nmore:\n", "2:9", "at least one 'name: folder'"
    ),
    "a model named base": Bad("  math:", "  base:", "3:3", "a model is named 'base'"),
    "a slash in a name": Bad("  math:", "  ma/th:", "3:3", "only letters, digits and _ . -"),
    "a model twice": Bad(
        "  code:", "  math:", "4:3", "'math' is given twice; it stands first at 3:3"
    ),
    "path is a number": Bad(
        "models/math", "7", "3:9", "7 stands here; text is wanted; put it in quotes"
    ),
    "path is a URL": Bad("models/math", "https://hub/math", "3:9", "on this machine"),
    "path is a hub id": Bad(
        "models/math", "org/math@main", "3:9", "hf download org/math --revision main"
    ),
    "tie to an unknown model": Bad(
        "fixed: 0.3", "tie: cod", "5:37", "'cod', which is no model; did you mean 'code'?"
    ),
    "tie to itself": Bad("fixed: 0.3", "tie: chat", "5:37", "in a circle: chat -> chat"),
    "tie cycle": Bad(
        "code: models/code\n  chat: {path: models/chat, weight: {fixed: 0.3}}",
        "code: {path: c, weight: {tie: chat}}\n  chat: {path: d, weight: {tie: code}}",
        "4:27",
        "in a circle: code -> chat -> code",
    ),
    "tie of all models": Bad("[0.05, 1.0]", "{tie: math}", "9:13", "write it at a model"),
    "fixed and range": Bad(
        "fixed: 0.3", "fixed: 0.3, range: [0, 1]", "5:37", "fixed and range exclude each other"
    ),
    "fixed and shared": Bad(
        "fixed: 0.3", "fixed: 0.3, shared: true", "5:37", "fixed and shared exclude"
    ),
    "empty pin": Bad(
        "{fixed: 0.3}", "{}", "5:37", "an empty pin; allowed: fixed, range, tie, shared"
    ),
    "two goals of one name": Bad("refusals", "gsm8k", "13:14", "two goals are named 'gsm8k'"),
    "no goals": Bad("goals:", "goals: []\nx:", "11:8", "at least one goal"),
    "comma in a metric": Bad("gsm8k", "'a,b'", "12:14", "no space, comma, = or /"),
    "limit is NaN": Bad("limit: 0.05", "limit: .nan", "13:76", "goals[1].limit: nan"),
    "option is NaN": Bad("x.jsonl", ".nan", "12:53", "options are finite numbers"),
    "shares over 100 %": Bad("60%", "70%", "14:8", "sum to 110 %; 100 % is wanted"),
    "shares below 100 %": Bad("60%", "50%", "14:8", "sum to 90 %"),
    "shares and counts": Bad("60%", "60", "14:8", "mixes counts and shares"),
    "nothing to search on": Bad("60%", "0%", "14:17", "the search needs items"),
    "share in words": Bad("60%", "most", "14:17", "a share such as 60% or a count"),
    "a share forgotten": Bad(", test: 20%", "", "14:8", "items lacks test"),
    # Groups.
    "no bands": Bad("layers: 4", "layers: 0", "8:20", "a number of bands"),
    "band upside down": Bad("layers: 4", "layers: [[3, 1]]", "8:21", "upside down"),
    "bands overlap": Bad("layers: 4", "layers: [[0, 3], [2, 5]]", "8:29", "overlap"),
    "broken pattern": Bad("layers: 4", "regex: {a: '('}", "8:23", "no regular expression"),
    "group named head": Bad("layers: 4", "regex: {head: x}", "8:20", "a meaning of its own"),
    # Outputs.
    "study inside a model": Bad(
        "runs/demo", "models/base/x", "17:1", "inputs are never written to"
    ),
    "export onto a model": Bad(
        "merged/", "models/x/../math", "19:1", "inputs are never written to"
    ),
    "password in the file": Bad(
        "engine: local", "mirror: postgresql://u:secret@h/db", "18:9", "$NAME"
    ),
    # YAML.
    "duplicate key": Bad(
        "sampler: auto", "sampler: auto\nsampler: cma", "16:1", "it stands first at 15:1"
    ),
    "alias bomb": Bad(
        "engine: local",
        "\n".join(
            ["a0: &a0 [0,0,0,0,0,0,0,0,0,0]"]
            + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
        ),
        "22:5",
        "more than 100,000 values",
    ),
    "tag": Bad("auto", "!!python/name:os.system", "15:10", "tag"),
    "tab": Bad("  method", "\tmethod", "7:1", "a tab is not allowed"),
    "requests": Bad("hours: 12", "requests: 0", "16:33", "a whole number, 1 or more, is wanted"),
    "tokens": Bad("hours: 12", "tokens: 20X", "16:31", "a count such as 5000, 500k or 20M"),
    "money": Bad("hours: 12", "money: 0", "16:30", "a number above 0"),
    # What later versions bring.
    "ray": Bad("local", "ray", "18:9", "'ray' is not in this version yet"),
    "split signs": Bad("split_signs: false", "split_signs: 3", "10:16", "true or false"),
    "mask": Bad("split_signs: false", "mask: exakt", "10:9", "did you mean 'exact'"),
    "mask without thresholds": Bad(
        "method: sparse_signed", "method: dare_ties\n  mask: exact", "8:9", "takes no mask"
    ),
    "http": Bad("jsonl", "http", "12:39", "not in this version yet"),
    "metagpt": Bad("sparse_signed", "metagpt", "7:11", "not in this version yet"),
    "surrogate": Bad(
        "engine: local", "surrogate: gp", "18:1", "surrogate is not in this version yet"
    ),
    "mergekit": Bad("base: models/base", "merge_method: ties", "1:1", "this is a mergekit file"),
}


def test_the_good_file_is_good() -> None:
    Campaign.parse(GOOD, "campaign.yaml")


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_is_refused_at_its_place(name: str) -> None:
    case = CASES[name]
    text = GOOD.replace(case.old, case.new, 1)
    assert text != GOOD
    with pytest.raises(UsageError) as caught:
        Campaign.parse(text, "campaign.yaml")
    assert str(caught.value).startswith(f"campaign.yaml:{case.place}: ")
    assert case.words in str(caught.value)
    assert type(caught.value) is case.error
    assert caught.value.exit_code == 2


def test_all_mistakes_are_shown_at_once_in_file_order() -> None:
    text = GOOD.replace("trials: 200", "trials: 0").replace("auto", "nsga5").replace("5GB", "x")
    with pytest.raises(PluginError) as caught:
        Campaign.parse(text, "c.yaml")
    places = [line.split(" ")[0] for line in str(caught.value).splitlines()]
    assert places == ["c.yaml:15:10:", "c.yaml:16:18:", "c.yaml:19:66:"]


def test_of_many_mistakes_five_are_shown() -> None:
    rules = ", ".join(f"{key}: x" for key in ("embeddings", "norms", "head"))
    text = GOOD.replace("layers: 4", f"layers: x, {rules}").replace("local", "x")
    with pytest.raises(CampaignError) as caught:
        Campaign.parse(text.replace("front", "x"), "c.yaml")
    assert len(str(caught.value).splitlines()) == 6
    assert str(caught.value).endswith("and 1 more")
