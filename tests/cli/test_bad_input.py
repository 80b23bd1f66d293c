"""Bad input, one case per row: what is broken, the command, its exit code, what it must say.

Every case makes its files for real and compares the whole folder before and after.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import World

Arrange = Callable[["World"], object]

MATRIX = "model.layers.0.mlp.up_proj.weight"
EMBEDDING = "model.embed_tokens.weight"
NORM = "model.norm.weight"
SHARD = "math/model.safetensors"
MERGEKIT = "merge_method: ties\nbase_model: base\nmodels:\n  - {model: math}\n"
CHECK_NEXT = ("nothing was written", "next: evomerge check")
USAGE, MODEL, STUDY = 2, 3, 4


@dataclass(frozen=True)
class Bad:
    """What is broken, what is typed, what comes of it.

    Attributes:
        says: phrases that must be in the answer.
    """

    arrange: Arrange
    words: str
    code: int
    says: tuple[str, ...]


def nothing(world: World) -> None:
    """The files are whole."""


def edit(old: str, new: str, file: str = "campaign.yaml") -> Arrange:
    """A campaign with other words."""
    return lambda world: world.edit(old, new, file=file)


def several(*steps: Arrange) -> Arrange:
    """One after the other."""

    def arrange(world: World) -> None:
        for step in steps:
            step(world)

    return arrange


# --- broken models


def tensors(world: World, name: str = "math") -> dict[str, np.ndarray]:
    """A model's tensors, to be changed and saved again."""
    from safetensors.numpy import load_file

    return dict(load_file(world / name / "model.safetensors"))


def other_shape(world: World) -> None:
    changed = tensors(world)
    changed[MATRIX] = changed[MATRIX][:, :2].copy()
    world.save("math", changed)


def other_vocabulary(world: World) -> None:
    changed = tensors(world)
    changed[EMBEDDING] = np.ones((9, 4), "f4")
    world.save("math", changed, vocab_size=9)


def lacks_a_tensor(world: World) -> None:
    changed = tensors(world)
    del changed[MATRIX]
    world.save("math", changed)


def has_one_more(world: World) -> None:
    changed = tensors(world)
    world.save("math", {**changed, "model.layers.1.mlp.up_proj.weight": changed[MATRIX]})


def with_entry(value: float) -> Arrange:
    def arrange(world: World) -> None:
        changed = tensors(world)
        changed[MATRIX][0, 0] = value
        world.save("math", changed)

    return arrange


def truncated(world: World) -> None:
    path = world / SHARD
    path.write_bytes(path.read_bytes()[:-40])


def endless_header(world: World) -> None:
    path = world / SHARD
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])


def lying_shape(world: World) -> None:
    path = world / SHARD
    path.write_bytes(path.read_bytes().replace(b"[8,4]", b"[9,4]"))


def index_of(shard: str) -> Arrange:
    """The model as an index whose shard has this name."""

    def arrange(world: World) -> None:
        (world / SHARD).rename(world / "math/model-1.safetensors")
        index = {"weight_map": dict.fromkeys((EMBEDDING, MATRIX, NORM), shard)}
        world.write("math/model.safetensors.index.json", json.dumps(index))

    return arrange


def link_outside(world: World) -> None:
    (world / SHARD).rename(world / "elsewhere.safetensors")
    (world / SHARD).symlink_to("../elsewhere.safetensors")


def only_pickle(world: World) -> None:
    (world / SHARD).unlink()
    world.write("math/pytorch_model.bin", "cos\nsystem\n(S'touch canary'\ntR.")


def pipe_for_shard(world: World) -> None:
    (world / SHARD).unlink()
    os.mkfifo(world / SHARD)


def empty_folder(world: World) -> None:
    shutil.rmtree(world / "math")
    (world / "math").mkdir()


def ia3_adapter(world: World) -> None:
    empty_folder(world)
    world.write("math/adapter_config.json", '{"peft_type": "IA3"}')
    world.write("math/adapter_model.safetensors", "")


# Each is refused by `run` and by `check` alike.
MODELS: Mapping[str, tuple[Arrange, tuple[str, ...]]] = {
    "no such folder": (edit("base: base", "base: nowhere"), ("nowhere", "no such folder or file")),
    "another shape": (other_shape, (MATRIX, "[4, 4]", "[4, 2]", "'math'")),
    "another vocabulary": (other_vocabulary, ("[8, 4]", "[9, 4]", "their vocabularies differ")),
    "a missing tensor": (lacks_a_tensor, ("'math' lacks", MATRIX)),
    "an extra tensor": (has_one_more, ("'math'", "the base has not", "layers.1.mlp")),
    "a truncated shard": (truncated, (SHARD, "of the 168 that are there", "download it again")),
    "an endless header": (endless_header, (SHARD, "1152921504606846976 bytes", "damaged")),
    "a lying shape": (lying_shape, (SHARD, "[9, 4]", "not 128 bytes long")),
    "an index that climbs out": (
        index_of("../base/model.safetensors"),
        ("model.safetensors.index.json", "climbs out of the folder with '..'"),
    ),
    "an index with an absolute shard": (index_of("/etc/passwd.safetensors"), ("absolute",)),
    "an index of a missing shard": (
        index_of("model-2.safetensors"),
        ("math/model-2.safetensors", "No such file"),
    ),
    "an index of pickle": (index_of("model-1.bin"), ("not a .safetensors file", "run code")),
    "a link that leaves": (link_outside, (SHARD, "a link that leaves the folder")),
    "only pickle": (only_pickle, ("pytorch_model.bin", "run code", "safe_serialization=True")),
    "a pipe for a shard": (pipe_for_shard, (SHARD, "not a regular file")),
    "an empty folder": (empty_folder, ("math", "holds no .safetensors file")),
    "NaN in a parent": (with_entry(np.nan), ("'math' has 1 NaN or infinite entries", MATRIX)),
    "infinity in a parent": (with_entry(np.inf), ("'math' has 1 NaN or infinite", MATRIX)),
    "config.json is no JSON": (
        lambda world: world.write("math/config.json", "{bad"),
        ("math/config.json", "not valid JSON"),
    ),
    "an adapter of another kind": (ia3_adapter, ("adapter_config.json", "IA3", "only LORA")),
    "an id of the hub": (
        edit("math: math", "math: org/model"),
        ("org/model", "is written with its revision, org/model@main"),
    ),
}


# --- bad campaign files

NEAR = 'type: python, function: "score.py:near", items: 10'
FILES: Mapping[str, tuple[tuple[str, str], tuple[str, ...]]] = {
    "a key misspelt": (("sampler:", "samplr:"), (":7:1:", "'samplr'", "did you mean 'sampler'")),
    "a key under merge": (("method:", "methd:"), (":3:9:", "'methd' in merge", "'method'")),
    "a key of a goal": (("direction: m", "diretion: m"), (":6:96:", "did you mean 'direction'")),
    "a key of a model": (
        ("math: math", "math: {path: math, wieght: {fixed: 1}}"),
        (":2:29:", "'wieght' in models.math", "did you mean 'weight'"),
    ),
    "a key of a pin": (
        ("math: math", "math: {path: math, weight: {fixd: 1}}"),
        (":2:38:", "models.math.weight", "did you mean 'fixed'"),
    ),
    "a key of the budget": (("trials:", "trails:"), (":8:10:", "did you mean 'trials'")),
    "a key twice": (("base: base", "base: base\nbase: math"), (":2:1:", "given twice", "1:1")),
    "no YAML": (("models:", "\tmodels:"), (":2:1:", "not YAML", "tab")),
    "a range upside down": (
        ("merge: {", "merge: {weight: [1.5, -0.5], "),
        (":3:17:", "merge.weight", "[1.5, -0.5] is upside down", "lower end comes first"),
    ),
    "NaN in a range": (
        ("merge: {", "merge: {weight: [.nan, 1], "),
        (":3:18:", "nan", "a finite number is wanted"),
    ),
    "a range of one number": (("merge: {", "merge: {weight: [1, 1], "), ("{fixed: 1}",)),
    "density 0": (("merge: {", "merge: {density: [0, 1], "), ("merge.density", "above 0")),
    "no such sampler": (("sampler: random", "sampler: randm"), (":7:10:", "'random'", "tpe")),
    "a sampler that hangs": (
        ("sampler: random", "sampler: nevergrad:NGOpt"),
        (":7:10:", "is refused", "take nevergrad:CMA or auto"),
    ),
    "a sampler for one goal": (
        ("sampler: random", "sampler: cma"),
        ("cma is for one goal, the campaign has 2", "nsga2", *CHECK_NEXT),
    ),
    "no such method": (("sparse_signed", "sparse_sined"), (":3:17:", "'sparse_signed'", "ties")),
    "a later method": (("sparse_signed", "passthrough"), (":3:17:", "not in this version yet")),
    "lines of nothing": (("sparse_signed", "lines"), (":3:17:", "lines:sparse_signed")),
    "lines of no method": (("sparse_signed", "lines:tis"), (":3:17:", "'ties'")),
    "no such objective": (("type: python, f", "type: pyton, f"), ("'pyton'", "'python'", "jsonl")),
    "a later objective": (
        (NEAR, "type: http, url: somewhere"),
        (":5:38:", "'http' is not in this version yet"),
    ),
    "tokens that nothing spends": (
        ("trials: 6", "trials: 6, tokens: 20M"),
        ("budget: it limits requests, tokens or money", "no objective asks an endpoint"),
    ),
    "a later engine": (("budget:", "engine: ray\nbudget:"), (":8:9:", "not in this version yet")),
    "later signs": (("merge: {", "merge: {signs: true, "), ("unknown key",)),
    "a later surrogate": (("budget:", "surrogate: gp\nbudget:"), ("a sampler brings its own",)),
    "no trials": (("trials: 6", "trials: 0"), (":8:18:", "budget.trials", "1 or more")),
    "no budget": (("budget: {trials: 6}\n", ""), ("budget is missing", "{trials: 100}")),
    "one metric twice": (("metric: small", "metric: near"), (":6:14:", "two goals", "'near'")),
    "no such direction": (("minimize", "down"), (":6:107:", "maximize, minimize")),
    "a limit of NaN": (("minimize", "minimize, limit: .nan"), ("limit", "finite number")),
    "shares over 100 %": (
        ("sampler:", "items: {search: 80%, selection: 20%, test: 20%}\nsampler:"),
        (":7:8:", "120 %", "100 % is wanted"),
    ),
    "more bands than layers": (
        ("{layers: all}", "{layers: 9}"),
        (":3:49:", "9 bands are asked of 1 layers", *CHECK_NEXT),
    ),
    "a study among the inputs": (
        ("study: study", "study: base/study"),
        (":9:1:", "inside the folder of 'base'", "inputs are never written to"),
    ),
    "an id of the hub with revision": (
        ("base: base", "base: org/model@main"),
        (":1:7:", "not on this machine", "hf download org/model --revision main"),
    ),
    "no workers": (("budget:", "workers: 0\nbudget:"), (":8:10:", "workers", "1 or more")),
    "no file of the objective": (
        ("score.py:near", "scores.py:near"),
        ("goal near", "scores.py", "cannot be read", *CHECK_NEXT),
    ),
    "no function in it": (
        ("score.py:near", "score.py:neer"),
        ("goal near", "no function 'neer'", "did you mean 'near'", *CHECK_NEXT),
    ),
    "no function named": (("score.py:near", "score.py"), (":5:31:", "file.py:name", *CHECK_NEXT)),
    "an option misspelt": (
        (
            "functi",
            "funtci",
        ),
        ("did you mean 'function'", *CHECK_NEXT),
    ),
    "no file of items": (
        ("items.jsonl", "item.jsonl"),
        ("goal small", "item.jsonl", "cannot be read", *CHECK_NEXT),
    ),
}


def items(text: str) -> Arrange:
    return lambda world: world.write("items.jsonl", text)


ITEMS: Mapping[str, Bad] = {
    "a bad line": Bad(
        items('{"size": 1}\n' * 2 + '{"size": 1\n'),
        "run campaign.yaml",
        USAGE,
        ("goal small", "items.jsonl:3", "not valid JSON", *CHECK_NEXT),
    ),
    "no items": Bad(items(""), "run campaign.yaml", USAGE, ("there are no items", *CHECK_NEXT)),
    "too few": Bad(
        items('{"size": 1}\n'),
        "run campaign.yaml",
        USAGE,
        (":6:32:", "1 items cannot be split into 3 parts"),
    ),
    "a file that is no text": Bad(
        lambda world: (world / "items.jsonl").write_bytes(b"\xff\xfe\0"),
        "run campaign.yaml",
        USAGE,
        ("items.jsonl:1", "not UTF-8"),
    ),
    "an objective that is no Python": Bad(
        lambda world: world.write("score.py", "def near(:\n"),
        "run campaign.yaml",
        USAGE,
        ("score.py:1", "not valid Python", *CHECK_NEXT),
    ),
    "no campaign": Bad(
        nothing, "run nothing.yaml", USAGE, ("nothing.yaml", "no such file", "evomerge init")
    ),
    "a folder for a campaign": Bad(nothing, "run base", USAGE, ("base", "not a file")),
    "an empty campaign": Bad(
        lambda world: world.write("campaign.yaml", ""), "check campaign.yaml", USAGE, ("empty",)
    ),
    "a campaign that is no text": Bad(
        lambda world: (world / "campaign.yaml").write_bytes(b"\xff\xfe\0"),
        "check campaign.yaml",
        USAGE,
        ("campaign.yaml:1:1", "not UTF-8"),
    ),
    "a campaign of megabytes": Bad(
        lambda world: world.write("campaign.yaml", "#" * 2_000_000),
        "check campaign.yaml",
        USAGE,
        ("over 1,000,000 bytes",),
    ),
}


# --- bad commands, recipes and outputs

COMMANDS: Mapping[str, Bad] = {
    "no such command": Bad(
        nothing, "rnu campaign.yaml", USAGE, ("No such command 'rnu'", "--help")
    ),
    "no such option": Bad(
        nothing, "run campaign.yaml --wokers 2", USAGE, ("'--wokers'", "'--workers'")
    ),
    "nothing given": Bad(nothing, "run", USAGE, ("Missing argument 'CAMPAIGN'",)),
    "no workers": Bad(nothing, "run campaign.yaml --workers 0", USAGE, ("--workers", "x>=1")),
    "a later engine": Bad(nothing, "run campaign.yaml --engine ray", USAGE, ("'ray'", "'local'")),
    "no such dtype": Bad(nothing, "merge recipe.yaml out --dtype int8", USAGE, ("bfloat16",)),
    "no size": Bad(nothing, "merge recipe.yaml out --shard-size lots", USAGE, ("'lots'", "5GB")),
    "init over a file": Bad(
        nothing,
        "init base math -o campaign.yaml",
        USAGE,
        ("campaign.yaml", "not overwritten", "-o campaign-2.yaml"),
    ),
    "init of nothing": Bad(
        nothing, "init base nope -o new.yaml", MODEL, ("nope", "no such folder")
    ),
    "init of a broken model": Bad(truncated, "init base math -o new.yaml", MODEL, ("damaged",)),
    "merge over a folder": Bad(
        lambda world: world.write("out/mine", "keep"),
        "merge recipe.yaml out",
        USAGE,
        ("out", "exists already", "another name"),
    ),
    "merge into an input": Bad(
        nothing, "merge recipe.yaml base/out", USAGE, ("inputs are never written to",)
    ),
    "merge with an unknown field": Bad(
        edit("weight: 0.5", "wait: 0.5", "recipe.yaml"),
        "merge recipe.yaml out",
        USAGE,
        ("recipe.yaml:3:68", "unknown parameter 'wait'", "did you mean 'weight'"),
    ),
    "merge with an unknown name": Bad(
        edit("weight: 0.5", '"math/4.mlp/weight": 0.5', "recipe.yaml"),
        "merge recipe.yaml out",
        USAGE,
        ("no parameter 'math/4.mlp/weight'", "did you mean 'math/all/weight'"),
    ),
    "merge with an unknown model": Bad(
        edit("weight: 0.5", "weight: {math: 1, cod: 2}", "recipe.yaml"),
        "merge recipe.yaml out",
        USAGE,
        ("no model 'cod'", "did you mean 'code'"),
    ),
    "merge by NaN": Bad(
        edit("weight: 0.5", "weight: .nan", "recipe.yaml"),
        "merge recipe.yaml out",
        USAGE,
        ("recipe.yaml:3:76", "finite number"),
    ),
    "merge of NaN": Bad(
        with_entry(np.nan),
        "merge recipe.yaml out",
        MODEL,
        ("out", "1 NaN or infinite entries", MATRIX, "nothing was written"),
    ),
    "merge too large for its dtype": Bad(
        lambda world: world.save("math", {k: v * 1e6 for k, v in tensors(world).items()}),
        "merge recipe.yaml out --dtype float16",
        MODEL,
        ("NaN or infinite entries", "dtype is too small", "nothing was written"),
    ),
    "merge of other shapes": Bad(other_shape, "merge recipe.yaml out", MODEL, (MATRIX, "[4, 2]")),
    "a mergekit file": Bad(
        lambda world: world.write("mergekit.yml", MERGEKIT),
        "merge mergekit.yml out",
        USAGE,
        ("mergekit.yml:4:5", "ties needs weight for 'math'"),
    ),
    "merge of a campaign": Bad(
        nothing, "merge campaign.yaml out", USAGE, ("belongs to a campaign", "evomerge run")
    ),
    "a study that is not there": Bad(
        nothing,
        "status campaign.yaml",
        STUDY,
        ("study", "there is no study here", "next: evomerge run campaign.yaml"),
    ),
    "scores for no study": Bad(
        nothing, "tell campaign.yaml 0 near=1 small=1", STUDY, ("there is no study here",)
    ),
    "an export of no study": Bad(nothing, "export campaign.yaml out", STUDY, ("no study here",)),
    "a model for a study": Bad(nothing, "front base", STUDY, ("base", "there is no study here")),
    "verify of nothing": Bad(nothing, "verify nope", STUDY, ("nope", "neither a study nor")),
    "a study's place taken": Bad(
        lambda world: world.write("study/mine", "keep"),
        "run campaign.yaml",
        STUDY,
        ("holds other things (mine", "nothing was changed"),
    ),
    "a file in the study's place": Bad(
        lambda world: world.write("study", "keep"),
        "run campaign.yaml",
        STUDY,
        ("study is not a folder", "nothing was written"),
    ),
}

RUN, CHECK = "run campaign.yaml", "check campaign.yaml"
CASES = {
    **{f"run, {k}": Bad(a, RUN, MODEL, (*says, *CHECK_NEXT)) for k, (a, says) in MODELS.items()},
    **{f"check, {k}": Bad(a, CHECK, MODEL, says) for k, (a, says) in MODELS.items()},
    **{f"file, {k}": Bad(edit(*w), RUN, USAGE, says) for k, (w, says) in FILES.items()},
    **{f"items, {name}": bad for name, bad in ITEMS.items()},
    **{f"command, {name}": bad for name, bad in COMMANDS.items()},
}


@pytest.mark.parametrize("bad", CASES.values(), ids=CASES.keys())
def test_it_is_refused_and_nothing_is_written(world: World, bad: Bad) -> None:
    bad.arrange(world)
    before = world.listing()
    said = world.run(*bad.words.split())
    assert said.code == bad.code, said
    missing = [phrase for phrase in bad.says if phrase not in said.text]
    assert not missing, said.text
    assert "Traceback" not in said.text
    assert "defect" not in said.text
    assert world.listing() == before


# --- studies


def asked(world: World) -> None:
    """A study of two trials, the first of them told."""
    assert world.run("ask", "campaign.yaml", "-n", "2").code == 0
    assert world.run("tell", "campaign.yaml", "0", "near=1", "small=2").code == 0


def overwritten_pages(world: World) -> None:
    path = world / "study/study.db"
    content = bytearray(path.read_bytes())
    content[4096 : 6 * 4096] = b"\x7f" * (5 * 4096)
    path.write_bytes(content)


def newer(world: World) -> None:
    with sqlite3.connect(world / "study/study.db") as database:
        database.execute("PRAGMA user_version = 999")
        database.execute("UPDATE study SET readable_by = 999")
    database.close()


def foreign_database(world: World) -> None:
    (world / "study/study.db").unlink()
    with sqlite3.connect(world / "study/study.db") as database:
        database.execute("CREATE TABLE mine (keep)")
    database.close()


def hold(world: World) -> None:
    """Another process has the study open."""
    script = "from evomerge.study.study import Study\n"
    script += "with Study.open('campaign.yaml'): print('held', flush=True); input()"
    process = world.start_python([sys.executable, "-c", script])
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"


def other_campaign(world: World) -> None:
    text = (world / "campaign.yaml").read_text()
    world.write("other.yaml", text.replace("metric: small", "metric: tiny"))


def other_model(world: World) -> None:
    world.save("math", tensors(world, "code"))


def out_file(world: World) -> None:
    world.write("out", "keep")


DAMAGE: Mapping[str, tuple[Arrange, str]] = {
    "overwritten pages": (overwritten_pages, "study's database is damaged"),
    "no database": (
        lambda world: (world / "study/study.db").write_bytes(b"hello" * 3000),
        "file is not a database",
    ),
    "an empty file": (
        lambda world: (world / "study/study.db").write_bytes(b""),
        "study.db is empty",
    ),
    "a missing file": (lambda world: (world / "study/study.db").unlink(), "study.db is missing"),
}
REPAIRS = ("backup and the attempts' result files are kept", "next: evomerge verify", "--repair")
HELD = ("in use by process", "nothing was changed", "next: evomerge status")
TOLD = "trial 1 is as it was"

STUDIES: Mapping[str, Bad] = {
    **{
        f"{name}, {words}": Bad(arrange, words, STUDY, (cause, *REPAIRS))
        for name, (arrange, cause) in DAMAGE.items()
        for words in ("run campaign.yaml", "ask study", "tell study 1 near=1 small=1")
        + (() if name == "a missing file" else ("status campaign.yaml",))
        if not (name == "a missing file" and words.startswith("ask"))
    },
    "a foreign database": Bad(
        foreign_database, "run campaign.yaml", STUDY, ("not an evomerge study", "left as it is")
    ),
    **{
        f"a newer evomerge's, {words}": Bad(
            newer,
            words,
            STUDY,
            ("a newer evomerge", "nothing was changed", "pip install --upgrade evomerge"),
        )
        for words in (
            "run campaign.yaml",
            "status study",
            "verify study",
            "verify study --repair",
        )
    },
    **{
        f"locked, {words}": Bad(hold, words, STUDY, HELD)
        for words in (
            "run campaign.yaml",
            "ask campaign.yaml",
            "tell campaign.yaml 1 near=1 small=1",
            "verify campaign.yaml --repair",
        )
    },
    "an edited campaign": Bad(
        edit("sampler: random", "sampler: sobol"),
        "run campaign.yaml",
        STUDY,
        ('sampler.name: "random" -> "sobol"', "nothing was changed", "--fork"),
    ),
    "an edited goal": Bad(
        edit("minimize", "maximize"),
        "ask campaign.yaml",
        STUDY,
        ('goals.small.direction: "minimize" -> "maximize"', "--fork, or undo these edits"),
    ),
    "another campaign's study": Bad(
        other_campaign,
        "run other.yaml",
        STUDY,
        ("made by a campaign that differs", "goals.tiny", "evomerge run", "other.yaml --fork"),
    ),
    "a changed model": Bad(
        other_model,
        "run campaign.yaml",
        STUDY,
        ("models.math: model.safetensors has changed", "nothing was changed", "old files back"),
    ),
    "an export of a changed model": Bad(
        other_model,
        "export campaign.yaml out --trial 0",
        STUDY,
        ("models.math: model.safetensors has changed", "nothing was written", "old files back"),
    ),
    "changed items": Bad(
        items('{"size": 1}\n' * 12),
        "run campaign.yaml",
        STUDY,
        ("items of small: items.jsonl has changed", "--fork"),
    ),
    "an export of an unknown trial": Bad(
        nothing, "export campaign.yaml out --trial 9", USAGE, ("there is no trial 9",)
    ),
    "an export over something else": Bad(
        lambda world: world.write("out/study-0/mine", "keep"),
        "export campaign.yaml out --trial 0",
        USAGE,
        ("out/study-0", "not this merge's whole export", "nothing was written", "another OUT"),
    ),
    "an export over a file": Bad(
        out_file, "export campaign.yaml out", USAGE, ("out", "a folder is wanted")
    ),
    "an export into an input": Bad(
        nothing, "export campaign.yaml base --trial 0", USAGE, ("inputs are never written to",)
    ),
    "scores of an unknown trial": Bad(
        nothing, "tell study 7 near=1 small=1", USAGE, ("there is no trial 7",)
    ),
    "a score missing": Bad(nothing, "tell study 1 near=1", USAGE, ("'near', 'small'", TOLD)),
    "an unknown metric": Bad(
        nothing, "tell study 1 near=1 smal=1", USAGE, ("'smal'", "the goals are", TOLD)
    ),
    "a score of NaN": Bad(nothing, "tell study 1 near=nan small=1", USAGE, ("finite", TOLD)),
    "an infinite score": Bad(nothing, "tell study 1 near=inf small=1", USAGE, ("finite", TOLD)),
    "a score that is a word": Bad(
        nothing, "tell study 1 near=good small=1", USAGE, ("'near=good'", "`metric=number`")
    ),
    "a metric twice": Bad(
        nothing, "tell study 1 near=1 near=2 small=1", USAGE, ("'near' more than once",)
    ),
    "too few scores": Bad(
        nothing, 'tell study 1 {"near":[1,2,3],"small":1}', USAGE, ("6 wanted, one per item", TOLD)
    ),
    "half a JSON": Bad(nothing, 'tell study 1 {"near":[1,2', USAGE, ("VALUES is no JSON",)),
    "null for a score": Bad(
        nothing, 'tell study 1 {"near":null,"small":1}', USAGE, ("numbers are wanted", TOLD)
    ),
    "other scores than before": Bad(
        nothing,
        "tell study 0 near=1 small=3",
        STUDY,
        ("told small = 2", "now 3", "never changed", "the first values are kept"),
    ),
    "a negative time": Bad(
        nothing, "tell study 1 near=1 small=1 --seconds -1", USAGE, ("0 or more is wanted",)
    ),
    "no candidates": Bad(nothing, "ask study -n 0", USAGE, ("'-n'", "x>=1")),
    "a mirror that cannot be": Bad(
        nothing,
        "dashboard study --to nosuch://storage",
        STUDY,
        ("nosuch://storage", "cannot be written", "the study itself is as it was"),
    ),
}


@pytest.mark.parametrize("bad", STUDIES.values(), ids=STUDIES.keys())
def test_it_is_refused_and_the_study_is_kept(world: World, bad: Bad) -> None:
    asked(world)
    trials = kept(world)
    bad.arrange(world)
    before = world.listing()
    said = world.run(*bad.words.split())
    assert said.code == bad.code, said
    missing = [phrase for phrase in bad.says if phrase not in said.text]
    assert not missing, said.text
    assert "Traceback" not in said.text
    assert "defect" not in said.text
    after = world.listing()
    if before.get("study/study.db") != after.get("study/study.db"):
        # Opening counts a session; all else in the database is as it was.
        assert kept(world) == trials
        after["study/study.db"] = before["study/study.db"]
    assert {**after, "study/lock": ""} == {**before, "study/lock": ""}


def kept(world: World) -> list[tuple[object, ...]]:
    """All that was asked and told."""
    database = sqlite3.connect(f"file:{world / 'study/study.db'}?mode=ro", uri=True)
    try:
        tables = ("study", "inputs", "candidates", "attempts", "results", "scores")
        return [row for table in tables for row in database.execute(f"SELECT * FROM {table}")]
    finally:
        database.close()
