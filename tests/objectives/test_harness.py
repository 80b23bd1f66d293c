"""Tasks of lm-evaluation-harness on live models: against the harness's own, and against JSONL."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evomerge.errors import UsageError
from evomerge.objectives.harness import HarnessObjective
from evomerge.objectives.jsonl import JsonlObjective
from evomerge.objectives.models import load_model
from evomerge.objectives.registry import make
from evomerge.objectives.subject import LiveModel
from evomerge.objectives.tokens import ByteTokenizer
from evomerge.trial import Scores

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("default")  # the harness and what it imports have many

CHOICES = [
    {
        "question": f"Of {a} and {b} the sum is",
        "choices": [str(a + b), "a lot", f"only {a}", "ten"],
        "gold": (a + b) % 2,
    }
    for a in range(5)
    for b in range(4)
]
ANSWERS = [{"question": f"{a} plus {a} is", "answer": str(a + a)} for a in range(6)]
TEXTS = [{"text": f"Page {n} of a book that is " + "long " * n} for n in range(5)]

TASKS: Mapping[str, tuple[list[dict[str, Any]], str]] = {
    "choices": (
        CHOICES,
        """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true},
              {metric: acc_norm, aggregation: mean, higher_is_better: true}]
""",
    ),
    "answers": (
        ANSWERS,
        """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    ),
    "texts": (
        TEXTS,
        """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]
""",
    ),
    "endings": (
        ANSWERS,
        """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    ),
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks on JSONL files; the worked examples come from the items themselves."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, (items, text) in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(item) + "\n" for item in items))
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ntest_split: test\nfewshot_split: test\n"
            f"dataset_kwargs: {{data_files: {{test: {data}}}}}\n{text}"
        )
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    cache = tmp_path_factory.getbasetemp() / "datasets"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


@pytest.fixture
def folder(make_folder: Callable[..., Path]) -> Path:
    """A model that writes printable ASCII."""

    def printable(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"][:32] = tensors["lm_head.weight"][127:] = 0

    return make_folder(tensors=printable, max_position_embeddings=256)


@pytest.fixture
def live(folder: Path) -> LiveModel:
    return load_model(folder, device="cpu")


def objective(tasks: Path, task: Any, **options: Any) -> HarnessObjective:
    made = make(
        "lm_eval", {"task": task, "include_path": tasks.name, **options}, folder=tasks.parent
    )
    assert isinstance(made, HarnessObjective)
    return made


def by_the_harness(tasks: Path, folder: Path, task: str) -> dict[int, dict[str, Any]]:
    """The harness's own samples by item, on transformers' model."""
    transformers = pytest.importorskip("transformers")
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = HFLM(pretrained=module, tokenizer=tokenizer, batch_size=4)
    loaded = TaskManager(include_path=str(tasks), include_defaults=False).load([task])
    found = evaluate(lm=model, task_dict=loaded, bootstrap_iters=0)
    return {sample["doc_id"]: sample for sample in found["samples"][task]}


@pytest.mark.slow
def test_every_kind_of_task_scores_as_the_harness_itself(
    tasks: Path, folder: Path, live: LiveModel
) -> None:
    metrics = {"choices": "acc_norm", "answers": "exact_match", "endings": "acc"}
    for task, metric in metrics.items():
        wanted = by_the_harness(tasks, folder, task)
        found = objective(tasks, task, metrics=metric).evaluate(live, None)
        assert isinstance(found, Scores) and found.margins is not None
        assert list(found.items) == [wanted[i][metric] for i in range(len(wanted))]
        for i, margin in enumerate(found.margins):
            if task == "endings":
                assert margin == pytest.approx(wanted[i]["resps"][0][0][0], abs=1e-4)
            if task == "choices":
                item = CHOICES[i]
                nats = [
                    answers[0][0] / len(text)
                    for answers, text in zip(wanted[i]["resps"], item["choices"], strict=True)
                ]
                right = nats.pop(item["gold"])
                assert margin == pytest.approx(right - max(nats), abs=1e-4)
    wanted = by_the_harness(tasks, folder, "texts")
    texts = objective(tasks, "texts").evaluate(live, None)
    assert isinstance(texts, Scores)
    for i, score in enumerate(texts.items):
        nats, size = wanted[i]["bits_per_byte"]
        assert score == pytest.approx(-nats / size / np.log(2), abs=1e-4)


def test_jsonl_and_the_harness_agree(tasks: Path, live: LiveModel) -> None:
    """Likelihoods to 1e-4, decisions the same, item by item."""
    pairs = [("choices", "acc", {}), ("choices", "acc_norm", {"metrics": "accuracy_norm"})]
    pairs.append(("answers", "exact_match", {"max_new_tokens": 6}))
    for task, metric, options in pairs:
        own = JsonlObjective({"items": f"{task}.jsonl", **options}, folder=tasks)
        a, b = own.evaluate(live, None), objective(tasks, task, metrics=metric).evaluate(live, None)
        assert isinstance(a, Scores) and isinstance(b, Scores)
        assert list(a.items) == list(b.items)
        assert a.margins == pytest.approx(b.margins, abs=1e-4)


def test_texts_agree_where_the_tokenizer_adds_nothing(
    tasks: Path, make_folder: Callable[..., Path]
) -> None:
    """Where it adds a beginning of text, the harness scores that as well, and JSONL does not."""
    plain = ByteTokenizer.new(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    live = load_model(make_folder(tokenizer=plain, max_position_embeddings=64), device="cpu")
    own = JsonlObjective({"items": "texts.jsonl"}, folder=tasks)
    a, b = own.evaluate(live, range(3)), objective(tasks, "texts").evaluate(live, range(3))
    assert isinstance(a, Scores) and isinstance(b, Scores)
    assert list(a.items) == pytest.approx([-score for score in b.items], abs=1e-4)


def test_chosen_items_score_the_same_in_any_company(tasks: Path, live: LiveModel) -> None:
    """Also with worked examples, which the harness draws from one stream for all items."""
    made = objective(tasks, ["choices", "endings"], metrics="acc", shots=2)
    assert made.count == 26 and made.needs == "model"
    whole = made.evaluate(live, None)
    again = objective(tasks, ["choices", "endings"], metrics="acc", shots=2)
    for order in ([25, 3, 3, 0], [7]):
        some = again.evaluate(live, order)
        assert list(some.items) == [whole.items[i] for i in order]
        assert list(some.margins) == [whole.margins[i] for i in order]


def test_the_parameters_of_the_moment_are_measured(tasks: Path, live: LiveModel) -> None:
    """The harness's own cache would answer for the first candidate again."""
    made = objective(tasks, "choices")
    first = made.evaluate(live, range(4))
    parameter = next(live.module.parameters())
    kept = parameter.clone()
    parameter.mul_(1.5)
    second = made.evaluate(live, range(4))
    parameter.copy_(kept)
    assert first.margins != second.margins and made.evaluate(live, range(4)) == first


def test_no_global_state_is_touched(tasks: Path, live: LiveModel) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    objective(tasks, "answers", shots=1).evaluate(live, [0])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002


def test_a_text_without_an_end_is_counted(tasks: Path, live: LiveModel) -> None:
    assert objective(tasks, "answers").evaluate(live, None).rates == {"invalid": 1.0}


def test_several_goals_from_one_pass(tasks: Path, live: LiveModel) -> None:
    found = objective(tasks, "choices", metrics={"a": "acc", "b": "acc_norm"}).evaluate(live, [1])
    assert set(found) == {"a", "b"} and found["a"].margins != found["b"].margins


def test_limited_to_the_first_items(tasks: Path) -> None:
    assert objective(tasks, ["choices", "texts"], limit=4).count == 8


BAD: Mapping[str, tuple[dict[str, Any], str]] = {
    "no task": ({"task": None}, "a task of lm-eval"),
    "unknown task": ({"task": "chioces.yaml"}, "lm-eval cannot load .*chioces"),
    "unknown metric": ({"task": "choices", "metrics": "ac"}, "did you mean 'acc'"),
    "unknown option": ({"task": "choices", "shot": 1}, "did you mean 'shots'"),
    "senseless": ({"task": "choices", "shots": -1}, "a whole number"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_what_is_refused(options: dict[str, Any], words: str, tasks: Path) -> None:
    with pytest.raises(UsageError, match=words):
        _ = objective(tasks, **options).count


def test_what_is_refused_on_sight_of_the_model(tasks: Path, live: LiveModel) -> None:
    for options, words in (
        ({"task": "choices", "filter": "best"}, "no filter 'best'; known: none"),
        ({"task": "choices", "chat": True}, "no chat template"),
    ):
        with pytest.raises(UsageError, match=words):
            objective(tasks, **options).evaluate(live, [0])


def test_making_one_loads_neither_torch_nor_the_harness(tasks: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from evomerge.objectives.registry import make; "
        f"make('lm_eval', {{'task': 'choices'}}, folder=Path({str(tasks)!r})); "
        "assert not {'torch', 'lm_eval', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
