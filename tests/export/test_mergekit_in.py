"""``evomerge merge`` on mergekit's files: what every form gives, worked by hand, then by mergekit.

The models are Llamas of four layers. In the first part every tensor of a model is one number, so
the merge shows the parameter that each tensor got. The second part runs mergekit 0.1.5, an
independent program, where it is installed, and compares all tensors.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.errors import UsageError
from evomerge.export.merge import write_merge

LAYERS = 4
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 8,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "dtype": "float32",
}
BLOCK = {
    "self_attn.q_proj": (4, 4),
    "self_attn.k_proj": (4, 4),
    "self_attn.v_proj": (4, 4),
    "self_attn.o_proj": (4, 4),
    "mlp.gate_proj": (6, 4),
    "mlp.up_proj": (6, 4),
    "mlp.down_proj": (4, 6),
    "input_layernorm": (4,),
    "post_attention_layernorm": (4,),
}
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (8, 4),
    **{f"model.layers.{i}.{k}.weight": s for i in range(LAYERS) for k, s in BLOCK.items()},
    "model.norm.weight": (4,),
    "lm_head.weight": (8, 4),
}
TASK = "merge_method: task_arithmetic\nbase_model: zero\ndtype: float32\n"


def layer(name: str) -> int:
    return int(name.split(".")[2]) if ".layers." in name else -1


def entries(seed: int) -> Callable[[str, tuple[int, ...]], Tensor]:
    """Multiples of 1/64; those of models differ from the base's by magnitudes of their own."""

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        base = torch.randint(-64, 65, shape, generator=generator) / 64
        generator.manual_seed(zlib.crc32(f"{seed}{name}".encode()))
        codes = (117 << 7) + torch.randperm(base.numel(), generator=generator)
        sizes = (codes.int() << 16).view(torch.float32) + seed * 2**-21
        signs = torch.randint(0, 2, (base.numel(),), generator=generator) * 2 - 1
        return base + (sizes * signs).reshape(shape) if seed else base

    return draw


def far(seed: int) -> Callable[[str, tuple[int, ...]], Tensor]:
    """64 times as far from the base: mergekit takes squares below 1e-6 for 0, and float32's
    arc cosine of models that are nearly parallel for what it is."""
    base, near = entries(0), entries(seed)
    return lambda name, shape: base(name, shape) + 64 * (near(name, shape) - base(name, shape))


def everywhere(number: float) -> Callable[[str, tuple[int, ...]], Tensor]:
    return lambda name, shape: torch.full(shape, number)


def by_layer(number: float) -> Callable[[str, tuple[int, ...]], Tensor]:
    return lambda name, shape: torch.full(shape, number + layer(name) + 1)


MODELS = {
    "zero": everywhere(0.0),
    "one": everywhere(1.0),
    "ten": everywhere(10.0),
    "low": by_layer(0.0),
    "high": by_layer(100.0),
    "origin": entries(0),
    "a": entries(1),
    "b": entries(2),
    "far_a": far(1),
    "far_b": far(2),
    "far_c": far(5),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mergekit")
    for model, fill in MODELS.items():
        (folder / model).mkdir()
        tensors = {name: fill(name, shape) for name, shape in SHAPES.items()}
        save_file(tensors, folder / model / "model.safetensors", metadata={"format": "pt"})
        (folder / model / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def merge(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], dict[str, Tensor]]:
    """What a mergekit file gives, by tensor."""

    def write(text: str) -> dict[str, Tensor]:
        monkeypatch.chdir(home)
        (tmp_path / "config.yml").write_text(text)
        folder = write_merge(tmp_path / "config.yml", tmp_path / "out")
        assert (folder / "mergekit_config.yml").read_text() == text
        return load_file(folder / "model.safetensors")

    return write


Merge = Callable[[str], dict[str, Tensor]]


def seen(tensors: dict[str, Tensor]) -> dict[str, float]:
    """The one number of each tensor, by short name; of attention and mlp one tensor each."""
    short = {
        "embed": "model.embed_tokens.weight",
        "norm": "model.norm.weight",
        "head": "lm_head.weight",
    }
    for i in range(len({layer(name) for name in tensors}) - 1):
        short[f"attn{i}"] = f"model.layers.{i}.self_attn.q_proj.weight"
        short[f"mlp{i}"] = f"model.layers.{i}.mlp.up_proj.weight"
    return {word: round(float(tensors[name].flatten()[0]), 4) for word, name in short.items()}


def layers_of(numbers: dict[str, float]) -> list[float]:
    return [number for name, number in numbers.items() if name.startswith("attn")]


def test_a_gradient_runs_over_the_layers_and_starts_outside_of_them(merge: Merge) -> None:
    found = seen(merge(TASK + "models: [{model: one, parameters: {weight: [0.5, 1, 0]}}]"))
    assert layers_of(found) == [0.5, 0.8333, 0.6667, 0.0]
    assert (found["embed"], found["norm"], found["head"]) == (0.5, 0.5, 0.5)


def test_the_first_filter_that_a_name_contains_counts(merge: Merge) -> None:
    found = seen(
        merge(
            TASK + "models:\n- model: one\n  parameters:\n    weight:\n"
            "    - {filter: self_attn, value: 0.2}\n    - {filter: mlp, value: [0, 3]}\n"
            "    - {filter: '*', value: 0.4}\n    - {value: 0.7}\n"
        )
    )
    assert [found[f"attn{i}"] for i in range(4)] == [0.2] * 4
    assert [found[f"mlp{i}"] for i in range(4)] == [0.0, 1.0, 2.0, 3.0]
    assert found["embed"] == 0.4


def test_a_number_is_looked_for_at_the_input_the_slice_and_the_whole(merge: Merge) -> None:
    found = seen(
        merge(
            TASK + "slices:\n"
            "- sources:\n  - {model: zero, layer_range: [0, 2]}\n"
            "  - {model: one, layer_range: [0, 2], parameters:"
            " {weight: {filter: mlp, value: 5}}}\n  parameters: {weight: [2, 3]}\n"
            "- sources:\n  - {model: one, layer_range: [2, 4]}\n"
            "  - {model: zero, layer_range: [2, 4]}\n"
            "parameters: {weight: [7, 9]}\n"
        )
    )
    assert [found[f"mlp{i}"] for i in range(4)] == [5, 5, 7, 9]  # gradients restart in a slice
    assert [found[f"attn{i}"] for i in range(4)] == [2, 3, 7, 9]
    assert (found["embed"], found["norm"]) == (2, 7)  # of the first and of the last slice


def test_layers_from_elsewhere_make_a_model_with_another_number_of_layers(
    merge: Merge, tmp_path: Path
) -> None:
    found = seen(
        merge(
            "merge_method: passthrough\nslices:\n- sources: [{model: low, layer_range: [0, 3]}]\n"
            "- sources: [{model: high, layer_range: [1, 4]}]\n"
        )
    )
    assert layers_of(found) == [1, 2, 3, 102, 103, 104]
    assert (found["embed"], found["norm"], found["head"]) == (0, 100, 100)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 6


def test_what_the_config_lists_by_layer_moves_with_the_layers(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "low", tmp_path / "mixed")
    kinds = ["full", "sliding", "full", "linear"]
    config = {**CONFIG, "layer_types": kinds}
    (tmp_path / "mixed" / "config.json").write_text(json.dumps(config))
    text = "merge_method: passthrough\nslices: [{sources: [{model: mixed, layer_range: [1, 4]}]}]"
    (tmp_path / "config.yml").write_text(text)
    found = json.loads(
        (write_merge(tmp_path / "config.yml", tmp_path / "out") / "config.json").read_text()
    )
    assert (found["num_hidden_layers"], found["layer_types"]) == (3, kinds[1:])


def test_numbers_without_effect_are_noted(home: Path, tmp_path: Path) -> None:
    said: list[str] = []
    models = f"models: [{{model: {home / 'one'}, parameters: {{weight: 1}}}}]"
    text = TASK.replace("zero", str(home / "zero")) + models + "\nparameters: {int8_mask: true}"
    (tmp_path / "config.yml").write_text(text)
    write_merge(tmp_path / "config.yml", tmp_path / "out", note=said.append)
    assert said == ["int8_mask has no effect here"]


@pytest.mark.parametrize("same", [True, False])
def test_the_base_s_tokenizer_is_taken_where_all_have_the_same(
    home: Path, tmp_path: Path, same: bool
) -> None:
    for model, tokens in (("zero", {"a": 0, "b": 1}), ("one", {"a": 0, "b" if same else "c": 1})):
        shutil.copytree(home / model, tmp_path / model)
        (tmp_path / model / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens}}))
    text = TASK + "models: [{model: one, parameters: {weight: 1}}]\ntokenizer_source: base\n"
    (tmp_path / "config.yml").write_text(text)
    if same:
        assert (write_merge(tmp_path / "config.yml", tmp_path / "out") / "tokenizer.json").is_file()
        return
    with pytest.raises(UsageError, match="vocabularies of 'base' and 'one' differ"):
        write_merge(tmp_path / "config.yml", tmp_path / "out")


def test_filters_see_the_model_s_own_names_and_those_of_the_merge_the_new_ones(
    merge: Merge,
) -> None:
    cases = "[{filter: layers.0, value: 10}, {filter: layers.2, value: 100}, {value: 1}]"
    ranges = "{model: one, layer_range: [2, 4]}, {model: zero, layer_range: [1, 3]}"
    slices = f"slices: [{{sources: [{ranges}]}}]\n"
    own = seen(merge(TASK + slices + f"parameters: {{weight: {cases}}}"))
    assert layers_of(own) == [100, 1]


def test_one_layer_alone_takes_the_end_of_a_gradient(merge: Merge) -> None:
    source = "{model: low, layer_range: [1, 2], parameters: {scale: [3, 5]}}"
    found = seen(merge(f"merge_method: passthrough\nslices: [{{sources: [{source}]}}]"))
    assert layers_of(found) == [10]


def test_a_scale_of_nothing_is_nothing(merge: Merge) -> None:
    scale = "{scale: [{filter: o_proj, value: 0}, {value: 1}]}"
    found = merge(f"merge_method: passthrough\nmodels: [{{model: ten, parameters: {scale}}}]")
    assert not found["model.layers.2.self_attn.o_proj.weight"].any()
    assert bool((found["model.layers.2.self_attn.q_proj.weight"] == 10).all())


@pytest.mark.parametrize(
    ("said", "expected"), [("", 7.75), ("parameters: {normalize: false}", 31.0)]
)
def test_linear_divides_unless_it_is_told_not_to(merge: Merge, said: str, expected: float) -> None:
    models = "[{model: one, parameters: {weight: 1}}, {model: ten, parameters: {weight: 3}}]"
    found = seen(merge(f"merge_method: linear\nmodels: {models}\n{said}"))
    assert set(found.values()) == {expected}


def test_the_base_of_a_linear_merge_is_one_of_its_models(merge: Merge) -> None:
    """(2 * 10 + 1 * 1) / 3."""
    found = seen(
        merge(
            "merge_method: linear\nbase_model: ten\nparameters: {weight: 2}\n"
            "models: [{model: one, parameters: {weight: 1}}]"
        )
    )
    assert set(found.values()) == {7.0}


def test_lambda_and_normalize_scale_a_sum(merge: Merge) -> None:
    """(1 * 1 + 3 * 10) / 4, halved."""
    models = "[{model: one, parameters: {weight: 1}}, {model: ten, parameters: {weight: 3}}]"
    found = seen(merge(f"{TASK}models: {models}\nparameters: {{normalize: true, lambda: 0.5}}"))
    assert set(found.values()) == {3.875}


def test_an_adapter_is_written_behind_its_base(merge: Merge, adapt: Callable[..., Path]) -> None:
    """Of rank 2 and alpha 4: half of twice the product, in the tensors that it changes alone."""
    changed = "model.layers.1.self_attn.q_proj"
    up, down = torch.arange(8.0).view(4, 2), torch.ones(2, 4)
    tensors = {f"{changed}.lora_A.weight": down, f"{changed}.lora_B.weight": up}
    folder = adapt(tensors, target_modules=["q_proj"])
    found = merge(TASK + f"models: [{{model: zero+{folder}, parameters: {{weight: 0.5}}}}]")
    for name, tensor in found.items():
        expected = up @ down if name == f"{changed}.weight" else torch.zeros(())
        assert torch.equal(tensor, expected.expand(tensor.shape))


def test_slices_may_pair_the_base_with_another_model_each(merge: Merge) -> None:
    """Parallel tensors: SLERP is the straight line, halfway from 1 to 10 and from 1 to 100 + n."""
    found = seen(
        merge(
            "merge_method: slerp\nbase_model: one\nparameters: {t: 0.5}\nslices:\n"
            "- sources: [{model: one, layer_range: [0, 2]}, {model: ten, layer_range: [0, 2]}]\n"
            "- sources: [{model: high, layer_range: [2, 4]}, {model: one, layer_range: [2, 4]}]\n"
        )
    )
    assert layers_of(found) == [5.5, 5.5, 52.0, 52.5]


def test_the_output_dtype_counts_before_the_dtype(merge: Merge) -> None:
    text = "merge_method: linear\nmodels: [{model: one, parameters: {weight: 1}}]\n"
    found = merge(text + "dtype: float16\nout_dtype: bfloat16")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "merge_method: tise\nmodels: []",
            "1:15: merge_method: mergekit has no method 'tise'; did",
        ),
        ("merge_method: arcee_fusion\nmodels: []", "'arcee_fusion' is not here; sce and"),
        ("merge_method: ties\nmodels: [{model: a}]", "1:1: ties needs a base_model"),
        (TASK + "models: []\nslices: []", "5:1: models and slices exclude each other"),
        (TASK, "1:1: models or slices are missing"),
        (
            TASK + "models: [{model: a}]\nparamters: {}",
            "5:1: unknown key 'paramters'; did you mean",
        ),
        (
            TASK + "models: [{model: a, parameters: {wieght: 1}}]",
            "4:34: models.parameters: task_arithmetic has no parameter 'wieght'; did you",
        ),
        (TASK + "models: [{model: a, weight: 1}]", "4:21: unknown key 'weight' in models"),
        (TASK + "models: [{model: a}]", "needs weight for 'a', and tensor model.embed"),
        (TASK + "models: [{model: a, parameters: {weight: [{filter: x}]}}]", "4:43: "),
        (TASK + "models: [{model: a, parameters: {weight: high}}]", "'high' stands here; a number"),
        (TASK + "models: [{model: a}, {model: a}]", "the model 'a' is an input twice"),
        (TASK + "models: [{model: a+lora}]", "a LoRA is read on top of the base_model alone"),
        (TASK + "models: [{model: a}]\ntokenizer_source: union", "'union': a merge has the token"),
        (TASK + "models: [{model: a}]\nchat_template: auto", "keeps the base's chat template"),
        (TASK + "models: [{model: a}]\nmodules: {}", "5:1: models of several modules"),
        (
            "merge_method: dare_ties\nbase_model: a\nmodels: [{model: b}]\n"
            "parameters: {rescale: false}",
            "4:23: parameters: dare_ties is merged only with rescale: true",
        ),
        (
            "merge_method: slerp\nbase_model: a\nmodels: [{model: b}, {model: one}]",
            "slerp takes 2 inputs, the base included; here are 3",
        ),
        (
            TASK + "slices: [{sources: [{model: one, layer_range: [0, 4]}]}]",
            "the base_model has to be one of the sources",
        ),
        (
            "merge_method: passthrough\nslices: [{sources: [{model: low, layer_range: [2, 9]}]}]",
            "layers 2 to 8 of 'low' are asked for; it has layers 0 to 3",
        ),
        (
            "merge_method: passthrough\nslices: [{sources: [{model: low, layer_range: [2, 2]}]}]",
            "the layer range [2, 2] is none",
        ),
    ],
)
def test_what_is_not_merged_is_refused_at_its_place(merge: Merge, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        merge(text)
    assert words in str(caught.value), str(caught.value)


# What mergekit itself makes of the same files.

FOLDERS = ("out", "theirs")
oracle = pytest.mark.skipif(
    importlib.util.find_spec("mergekit") is None,
    reason="the oracle mergekit==0.1.5 is not installed",
)
BASED = "base_model: origin\ndtype: float32\n"
THREE = "models: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.25}}]\n"
FAR = "models: [{model: far_a}, {model: far_b}, {model: far_c}]\n"
FORMS = {
    "linear": "merge_method: linear\ndtype: float32\n" + THREE,
    "linear_sum": f"merge_method: linear\ndtype: float32\n{THREE}parameters: {{normalize: false}}",
    "slerp": "merge_method: slerp\n" + BASED + "models: [{model: a}]\n"
    "parameters: {t: [{filter: self_attn, value: [0, 0.5, 0.3]}, {filter: mlp, value: [1, 0]},"
    " {value: 0.5}]}",
    "nuslerp": "merge_method: nuslerp\n" + BASED + THREE,
    "nuslerp_of_models": "merge_method: nuslerp\ndtype: float32\n" + THREE,
    "task_arithmetic": "merge_method: task_arithmetic\n"
    + BASED
    + THREE
    + "parameters: {lambda: [{filter: mlp, value: [0.5, 1]}, {value: 2}], normalize: true}",
    "ties": "merge_method: ties\n"
    + BASED
    + THREE
    + "parameters: {density: [{filter: norm, value: 1}, {value: 0.5}], int8_mask: true}",
    "ties_sum": f"merge_method: ties\n{BASED}{THREE}parameters: {{density: 0.5, normalize: false}}",
    "dare_linear": "merge_method: dare_linear\n" + BASED + THREE + "parameters: {density: 1}",
    "dare_ties": "merge_method: dare_ties\n" + BASED + THREE + "parameters: {lambda: 0.5}",
    "della": f"merge_method: della\n{BASED}{THREE}parameters: {{density: 1, epsilon: 0}}",
    "della_linear": f"merge_method: della_linear\n{BASED}{THREE}"
    "parameters: {density: 1, epsilon: 0, lambda: 0.5}",
    "breadcrumbs": f"merge_method: breadcrumbs\n{BASED}{THREE}"
    "parameters: {density: 0.5, gamma: 0.25}",
    "breadcrumbs_ties": f"merge_method: breadcrumbs_ties\n{BASED}{THREE}"
    "parameters: {density: 0.5, gamma: 0.25, lambda: 1.5}",
    "model_stock": "merge_method: model_stock\n" + BASED + "models: [{model: a}, {model: b}]",
    "nearswap": f"merge_method: nearswap\n{BASED}models: [{{model: a}}]\nparameters: {{t: 0.002}}",
    "sce": f"merge_method: sce\n{BASED}{FAR}"
    "parameters: {select_topk: [{filter: norm, value: 1}, {value: 0.5}]}",
    "karcher": f"merge_method: karcher\ndtype: float32\n{FAR}"
    "parameters: {max_iter: 100, tol: 1.0e-9}",
    "multislerp": "merge_method: multislerp\n" + BASED + THREE,
    "layers_moved": "merge_method: task_arithmetic\n" + BASED + "slices:\n"
    "- sources:\n  - {model: origin, layer_range: [0, 2]}\n"
    "  - {model: a, layer_range: [1, 3], parameters: {weight: [0.5, 2]}}\n"
    "- sources:\n  - {model: b, layer_range: [1, 4], parameters: {weight: [1, 0, 3]}}\n"
    "  - {model: origin, layer_range: [1, 4]}\n",
    "stacked": "merge_method: passthrough\ndtype: float32\nslices:\n"
    "- sources: [{model: a, layer_range: [0, 3]}]\n"
    "- sources:\n  - model: b\n    layer_range: [1, 4]\n"
    "    parameters: {scale: {filter: mlp, value: 0.5}}\n",
}


OURS = {
    "sparse_signed": "parameters: {weight: {a: 0.5, b: -0.25}, a/0-1.mlp/weight: 0.75}",
    "linear": "parameters: {weight: {a: 1, b: 3}, a/2-3.attention/weight: 0}",
    "slerp": "parameters: {t: 0.25, 2-3.mlp/t: 0.5}",
    "nuslerp": "parameters: {weight: {a: 1, b: 3}, a/2-3.attention/weight: 2}",
    "multislerp": "parameters: {weight: {a: 1, b: 3}, b/0-1.mlp/weight: 2}",
}


@pytest.mark.parametrize("method", OURS)
def test_what_we_write_for_mergekit_we_read_as_the_same_merge(
    home: Path, merge: Merge, tmp_path: Path, method: str
) -> None:
    said = written(home, method)
    found = merge((said / "mergekit_config.yml").read_text())
    expected = load_file(said / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)


def written(home: Path, method: str) -> Path:
    """A recipe of ours, merged once."""
    recipe, out = home / f"{method}.yaml", home / f"merged_{method}"
    recipe.write_text(
        f"base: origin\nmodels: {{a: a, b: b}}\nmerge:\n  method: {method}\n"
        f"  groups: {{layers: 2, modules: [attention, mlp]}}\n  {OURS[method]}\n"
    )
    return out if out.exists() else write_merge(recipe, out)


@oracle
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore")
def test_mergekit_makes_the_same_tensors(merge: Merge, tmp_path: Path, form: str) -> None:
    found = merge(FORMS[form])
    agree(found, theirs(FORMS[form], tmp_path / "theirs"))
    ours, others = (json.loads((tmp_path / f / "config.json").read_text()) for f in FOLDERS)
    assert ours["num_hidden_layers"] == others["num_hidden_layers"]


@oracle
@pytest.mark.parametrize("method", OURS)
@pytest.mark.filterwarnings("ignore")
def test_mergekit_reads_what_we_write_for_it(
    home: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    folder = written(home, method)
    text = (folder / "mergekit_config.yml").read_text()
    agree(load_file(folder / "model.safetensors"), theirs(text, tmp_path / "theirs"))


def theirs(text: str, out: Path) -> dict[str, Tensor]:
    """mergekit's own merge of a file."""
    config: Any = importlib.import_module("mergekit.config")
    running: Any = importlib.import_module("mergekit.merge")
    document = config.MergeConfiguration.model_validate(yaml.safe_load(text))
    options = running.MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False)
    running.run_merge(document, str(out), options=options)
    return {n: t for shard in out.glob("*.safetensors") for n, t in load_file(shard).items()}


def agree(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        largest = float(tensor.abs().max())
        difference = float((found[name] - tensor).abs().max())
        assert difference <= 2e-6 * max(largest, 1.0), (name, difference)
