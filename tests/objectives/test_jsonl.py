"""The JSONL objective on real tiny models: what it scores, and what it refuses."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.errors import UsageError
from evomerge.objectives.jsonl import JsonlObjective
from evomerge.objectives.models import load_model
from evomerge.objectives.registry import make
from evomerge.objectives.subject import LiveModel
from evomerge.objectives.tokens import ByteTokenizer
from evomerge.trial import Scores

Write = Callable[..., Path]


@pytest.fixture
def live(make_folder: Callable[..., Path]) -> LiveModel:
    """A model that writes printable ASCII, so that what it generates is text."""

    def printable(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"][:32] = tensors["lm_head.weight"][127:] = 0

    return load_model(make_folder(tensors=printable), device="cpu")


def objective(path: Path, **options: Any) -> JsonlObjective:
    made = make("jsonl", {"items": path.name, **options}, folder=path.parent)
    assert isinstance(made, JsonlObjective)
    return made


def log_likelihood(live: Any, prompt: str, text: str) -> float:
    """In plain torch, one sequence at a time."""
    ids = live.tokenizer.encode(prompt + text)
    start = len(live.tokenizer.encode(prompt))
    with torch.inference_mode():
        table = live.module(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    return math.fsum(table[i - 1, ids[i]].item() for i in range(start, len(ids)))


def generated(live: Any, prompt: str, tokens: int) -> str:
    ids = live.tokenizer.encode(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            ids.append(int(live.module(torch.tensor([ids]))[0, -1].argmax()))
    text: str = live.tokenizer.decode(ids)
    return text[len(prompt) :]


CHOICES = [
    {"prompt": f"{a}+{b}=", "choices": [str(a + b), str(a + b + 1), "a lot"], "answer": 0}
    for a in range(4)
    for b in range(4)
]


def test_multiple_choice_is_the_most_probable(live: LiveModel, write_items: Write) -> None:
    made = objective(write_items(*CHOICES), delimiter="")
    scores = made.evaluate(live, range(16))
    assert scores.margins is not None and made.count == 16 and made.needs == "model"
    for item, score, margin in zip(CHOICES, scores.items, scores.margins, strict=True):
        right, *wrong = (log_likelihood(live, item["prompt"], c) for c in item["choices"])
        assert margin == pytest.approx(right - max(wrong), abs=1e-4)
        assert score == float(right > max(wrong))


@pytest.mark.parametrize("normalize", ["bytes", "tokens"])
def test_normalized_by_length(normalize: str, live: LiveModel, write_items: Write) -> None:
    item = {"query": "Q", "choices": ["é", "xyz"], "gold": "A"}
    scores = objective(write_items(item), normalize=normalize).evaluate(live, [0])
    sizes = {"bytes": (2, 3), "tokens": (3, 4)}[normalize]  # the space is a token of the choice
    pairs = zip((" é", " xyz"), sizes, strict=True)
    right, wrong = (log_likelihood(live, "Q", text) / size for text, size in pairs)
    assert scores.margins == pytest.approx([right - wrong], abs=1e-5)


def test_a_tie_is_wrong(make_folder: Any, write_items: Write) -> None:
    def flatten(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"].zero_()

    flat = load_model(make_folder("flat", tensors=flatten), device="cpu")
    made = objective(write_items({"prompt": "p", "choices": ["a", "b"], "answer": 0}))
    assert made.evaluate(flat, [0]) == Scores([0.0], [0.0])


def test_exact_match_is_what_greedy_generation_gives(live: LiveModel, write_items: Write) -> None:
    prompts = ["a", "2+2=", "The quick brown fox jumps", "xyz\nx"]
    truth = [generated(live, prompt, 3) for prompt in prompts]
    made = objective(
        write_items(
            *({"prompt": p, "answer": t} for p, t in zip(prompts, truth, strict=True)),
            *({"prompt": p, "answer": ["wrong", "no"]} for p in prompts),
        ),
        max_new_tokens=3,
        stop=["\x00"],
        delimiter="",
    )
    scores = made.evaluate(live, None)
    assert list(scores.items) == [1.0] * 4 + [0.0] * 4
    assert scores.margins is not None
    for prompt, text, margin in zip(prompts, truth, scores.margins, strict=False):
        wanted = log_likelihood(live, prompt, text) / 3
        assert margin == pytest.approx(wanted, abs=1e-4)
    for prompt, margin in zip(prompts, scores.margins[4:], strict=True):
        means = [log_likelihood(live, prompt, t) / len(t) for t in ("wrong", "no")]
        assert margin == pytest.approx(max(means), abs=1e-4)


def test_perplexity_in_bits_per_byte(live: LiveModel, write_items: Write) -> None:
    made = objective(write_items({"text": "héllo"}, {"prompt": "a", "text": "b" * 100}))
    scores = made.evaluate(live, [1, 0])
    first = log_likelihood(live, "", "héllo") / math.log(2) / 6
    second = log_likelihood(live, "a", "b" * 100) / math.log(2) / 100
    assert scores.items == pytest.approx([second, first], abs=1e-4)
    assert scores.margins is None


@pytest.mark.parametrize(
    ("prompt", "choice", "between"),
    [("p", "c", " "), ("p ", "c", ""), ("p\n", "c", ""), ("p", " c", ""), ("", "c", "")],
)
def test_one_space_unless_there_is_white_space(
    prompt: str, choice: str, between: str, live: LiveModel, write_items: Write
) -> None:
    item = {"prompt": prompt, "choices": [choice, "z"], "answer": 0}
    plain = {"prompt": prompt, "choices": [between + choice, between + "z"], "answer": 0}
    plain["choices"][1] = ("" if prompt[-1:].isspace() or not prompt else " ") + "z"
    own = objective(write_items(item)).evaluate(live, [0])
    assert own == objective(write_items(plain, name="b.jsonl"), delimiter="").evaluate(live, [0])


@pytest.mark.parametrize("kind", ["choices", "answers", "texts"])
def test_an_item_scores_the_same_in_any_company(
    kind: str, live: LiveModel, write_items: Write
) -> None:
    words = ["one", "two and two", "three " * 9, "4", "fünf" * 5, "6", "sieben " * 3]
    items: Mapping[str, list[dict[str, Any]]] = {
        "choices": [{"prompt": w, "choices": words[:3], "answer": 1} for w in words],
        "answers": [{"prompt": w, "answer": generated(live, w, 2)[:9] or "x"} for w in words],
        "texts": [{"text": w} for w in words],
    }
    kept = [item for item in items[kind] if str(item.get("answer", "x")).strip()]
    made = objective(write_items(*kept), batch_size=3)
    whole = made.evaluate(live, None)
    again = objective(write_items(*kept), batch_size=3)
    order = [3, 0, 2, 3]
    some = again.evaluate(live, order)
    assert list(some.items) == [whole.items[i] for i in order]
    if whole.margins is not None and some.margins is not None:
        assert list(some.margins) == [whole.margins[i] for i in order]


def test_the_parameters_of_the_moment_are_measured(live: LiveModel, write_items: Write) -> None:
    made = objective(write_items({"text": "abcdef"}))
    first = made.evaluate(live, None)
    parameter = next(live.module.parameters())
    kept = parameter.clone()
    parameter.mul_(1.5)
    second = made.evaluate(live, None)
    parameter.copy_(kept)
    assert first != second and made.evaluate(live, None) == first


def test_no_global_state_is_touched(live: LiveModel, write_items: Write) -> None:
    before = torch.get_rng_state()
    objective(write_items(*CHOICES)).evaluate(live, None)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_nan_is_reported(make_folder: Any, write_items: Write) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"].fill_(float("nan"))

    broken = load_model(make_folder("broken", tensors=spoil), device="cpu")
    for item in CHOICES[0], {"prompt": "p", "answer": "x"}, {"text": "abc"}:
        scores = objective(write_items(item)).evaluate(broken, [0])
        assert math.isnan(scores.items[0])


LONG = {
    "choices": {"prompt": "p" * 200, "choices": ["a", "b"], "answer": 0},
    "answer": {"prompt": "p" * 200, "answer": "a"},
    "text": {"text": "p" * 200},
}


@pytest.mark.parametrize("item", LONG.values(), ids=LONG)
def test_what_is_longer_than_the_context(
    item: dict[str, Any], live: LiveModel, write_items: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_items({**item, "prompt": "p"} if "prompt" in item else {"text": "p"}, item)
    with pytest.raises(UsageError, match="128 at most") as caught:
        objective(path).evaluate(live, None)
    assert caught.value.place == f"{path}:2"
    cut = objective(path, truncate=True)
    with caplog.at_level(logging.WARNING, "evomerge"):
        scores = cut.evaluate(live, None)
        cut.evaluate(live, None)
    assert all(map(math.isfinite, scores.items))
    assert [record.getMessage().split(": ")[1][:6] for record in caplog.records] == ["1 of 2"]


def test_what_is_cut_scores_as_its_end_does(live: LiveModel, write_items: Write) -> None:
    cut = objective(write_items(LONG["text"]), truncate=True).evaluate(live, [0])
    ids = torch.full((1, 129), ord("p"))
    with torch.inference_mode():
        table = live.module(ids[:, :-1])[0].log_softmax(-1)
    wanted = math.fsum(table[:, ord("p")].tolist()) / math.log(2) / 128
    assert cut.items == pytest.approx([wanted], abs=1e-4)


def test_a_continuation_longer_than_the_context_is_never_cut(
    live: LiveModel, write_items: Write
) -> None:
    items = (
        {"prompt": "p", "choices": ["a", "b" * 200], "answer": 0},
        {"prompt": "p", "answer": "a" * 200},
    )
    for item in items:
        made = objective(write_items(item), truncate=True)
        with pytest.raises(UsageError, match="does not fit"):
            made.evaluate(live, [0])


def test_an_empty_prompt_needs_a_token_to_begin_with(make_folder: Any, write_items: Write) -> None:
    bare = make_folder(tokenizer=ByteTokenizer.new(eos_token=None), eos_token_id=())
    made = objective(write_items({"text": "abc"}))
    with pytest.raises(UsageError, match="no token to begin with"):
        made.evaluate(load_model(bare, device="cpu"), [0])
    ended = make_folder("ended", tokenizer=ByteTokenizer.new())
    assert math.isfinite(made.evaluate(load_model(ended, device="cpu"), [0]).items[0])


def test_a_model_without_language_is_refused(live: LiveModel, write_items: Write) -> None:
    other = LiveModel(live.module, None, live.device, live.folder)
    with pytest.raises(UsageError, match="no causal language model"):
        objective(write_items(*CHOICES)).evaluate(other, [0])


def test_several_metrics_from_one_pass(live: LiveModel, write_items: Write) -> None:
    path = write_items(*CHOICES)
    goals = {"sums": "accuracy", "sure": "probability", "fluent": "log_likelihood"}
    both = objective(path, metrics=goals).evaluate(live, range(5))
    for goal, metric in goals.items():
        alone = objective(path, metrics=metric).evaluate(live, range(5))
        assert both[goal] == alone
    assert both["fluent"].margins is None and both["sure"].margins is not None


def test_what_is_written_serves_every_metric_of_it(live: LiveModel, write_items: Write) -> None:
    answer = generated(live, "a", 4)
    path = write_items({"prompt": "a", "answer": answer}, {"prompt": "b", "answer": "no"})
    names = ["exact_match", "contains", "f1", "log_likelihood", "perplexity"]
    made = objective(path, metrics=names, max_new_tokens=4, delimiter="", stop=["\x00"])
    scores = made.evaluate(live, None)
    assert [scores[name].items[0] for name in names[:3]] == [1.0, 1.0, 1.0]
    assert scores["f1"].rates == {"invalid": 1.0}  # neither came to an end before the limit
    alone = objective(path, max_new_tokens=4, delimiter="", stop=["\x00"])
    assert alone.evaluate(live, None).items == scores["exact_match"].items


def test_worked_examples_stand_before_the_prompt(live: LiveModel, write_items: Write) -> None:
    path = write_items(*CHOICES[:3])
    shown = write_items({"prompt": "9+9=", "choices": ["18", "1"], "answer": 0}, name="shots.jsonl")
    made = objective(path, shots=1, shots_from=shown.name, separator="\n", system="Add.")
    worded = [{**item, "prompt": f"Add.\n9+9= 18\n{item['prompt']}"} for item in CHOICES[:3]]
    plain = objective(write_items(*worded, name="worded.jsonl"))
    assert made.evaluate(live, None) == plain.evaluate(live, None)
    own = objective(path, shots=2, shots_seed=3)
    assert own.evaluate(live, [0]) != objective(path).evaluate(live, [0])
    with pytest.raises(UsageError, match="worked examples are wanted") as caught:
        objective(path, shots=3)
    assert caught.value.place == f"{path}:1"


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_chats_go_through_the_folders_template(
    make_folder: Callable[..., Path], write_items: Write
) -> None:
    """Nothing is added twice: the template's own beginning of text is the only one."""
    pytest.importorskip("transformers")
    from evomerge.objectives.hf import TransformersLanguageModel, load_tokenizer

    folder = make_folder()
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    own = load_model(folder, device="cpu")
    assert own.language is not None
    tokenizer = load_tokenizer(folder)

    class Chatting:
        def __getattr__(self, name: str) -> Any:
            return getattr(own.language, name)

        def chat(self, messages: Any) -> str:
            return TransformersLanguageModel.chat(self, messages)  # type: ignore[arg-type]

    chatting: Any = Chatting()
    chatting.tokenizer = tokenizer
    live = LiveModel(own.module, tokenizer, own.device, folder, chatting)
    path = write_items(*CHOICES[:2])
    told = objective(path, chat=True, system="Add.", shots=1).evaluate(live, [0])
    prompt = "[system]Add.\n[user]0+1=\n[assistant]1\n[user]0+0=\n[assistant]"
    by_hand = write_items({**CHOICES[0], "prompt": prompt}, name="hand.jsonl")
    assert told == objective(by_hand, delimiter="").evaluate(own, [0])  # which begins with <s>


def test_without_a_template_there_is_no_chat(live: LiveModel, write_items: Write) -> None:
    path = write_items(*CHOICES)
    with pytest.raises(UsageError, match="has no chat template") as caught:
        objective(path, chat=True).evaluate(live, [1])
    assert caught.value.place == f"{path}:2"


def test_what_puts_answers_in_doubt_is_counted(live: LiveModel, write_items: Write) -> None:
    path = write_items({"prompt": "p", "answer": "a"}, {"prompt": "p" * 200, "answer": "a"})
    scores = objective(path, truncate=True, metrics="f1", stop=["\x00"]).evaluate(live, None)
    assert scores.rates == {"truncated": 0.5, "invalid": 1.0}
    assert objective(path, truncate=True).evaluate(live, [0]).rates == {}  # decided at once


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"batchsize": 3}, "did you mean 'batch_size'"),
    "kind": ({"kind": "generate"}, "auto, multiple_choice"),
    "another kind": ({"kind": "perplexity"}, "text is missing"),
    "batch": ({"batch_size": 0}, "positive integer"),
    "true": ({"max_new_tokens": True}, "positive integer"),
    "normalize": ({"normalize": "words"}, "none, bytes, chars, tokens"),
    "stop": ({"stop": [""]}, "a text or a list"),
    "stop number": ({"stop": 3}, "a text or a list"),
    "delimiter": ({"delimiter": 3}, "a text is wanted"),
    "metric": ({"metrics": "exact_match"}, "no metric 'exact_match'"),
    "shots": ({"shots": -1}, "positive integer"),
    "seed": ({"shots_seed": 1.5}, "a whole number"),
    "shots_from alone": ({"shots_from": "items.jsonl"}, "say `shots`"),
    "truncate": ({"truncate": "yes"}, "true or false"),
    "no file": ({"items": "nowhere.jsonl"}, "cannot be read"),
    "no name": ({"items": None}, "items is missing"),
    "a number": ({"items": 3}, "a text is wanted"),
}


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_a_senseless_option(options: dict[str, Any], words: str, write_items: Write) -> None:
    with pytest.raises(UsageError, match=words):
        objective(write_items(*CHOICES), **options)


def test_a_file_of_two_kinds_is_refused_at_its_line(write_items: Write) -> None:
    path = write_items({"text": "a"}, {"text": "b"}, CHOICES[0])
    with pytest.raises(UsageError, match="first one is perplexity") as caught:
        objective(path)
    assert caught.value.place == f"{path}:3"


def test_making_an_objective_loads_no_torch(write_items: Write) -> None:
    path = write_items(*CHOICES)
    code = (
        "import sys; from pathlib import Path; from evomerge.objectives.registry import make; "
        f"made = make('jsonl', {{'items': {path.name!r}}}, folder=Path({str(path.parent)!r})); "
        "assert made.count == 16 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
