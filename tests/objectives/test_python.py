"""The user's own Python: how it is named, found, called, and what it may answer."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.errors import PluginError, UsageError
from evomerge.objectives.python import PythonObjective
from evomerge.objectives.registry import make
from evomerge.trial import InvalidScoresError, Scores


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def objective(folder: Path, code: str, **options: Any) -> PythonObjective:
    (folder / "mine.py").write_text(code)
    options.setdefault("function", "mine.py:score")
    made = make("python", options, folder=folder)
    assert isinstance(made, PythonObjective)
    return made


def test_a_function_gets_the_subject_and_the_items(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"x": 1}\n\n{"x": 2}\n{"x": 4}\n')
    code = "def score(subject, items): return [subject * item['x'] for item in items]"
    made = objective(tmp_path, code, items="items.jsonl")
    assert (made.needs, made.count) == ("model", 3)
    assert made.evaluate(10, [2, 0]) == Scores((40.0, 10.0))


def test_a_count_gives_indices_and_no_items_give_nothing(tmp_path: Path) -> None:
    made = objective(tmp_path, "def score(subject, items): return items", items=5)
    assert made.count == 5 and made.evaluate(None, [4, 1]) == Scores((4.0, 1.0))
    alone = objective(
        tmp_path, "def single(subject): return subject / 2", function="mine.py:single"
    )
    assert alone.count is None


def test_one_number_without_items(tmp_path: Path) -> None:
    made = objective(tmp_path, "def score(subject): return subject / 2")
    assert made.count is None and made.evaluate(3, None) == Scores((1.5,))


def test_a_class_is_made_once_with_its_arguments(tmp_path: Path) -> None:
    code = """
class score:
    needs = "coefficients"
    def __init__(self, step): self.step, self.calls = step, 0
    def evaluate(self, subject, items):
        self.calls += self.step
        return [self.calls for _ in items]
"""
    made = objective(tmp_path, code, items=1, kwargs={"step": 3})
    assert made.needs == "coefficients"
    assert [made.evaluate({}, [0]) for _ in range(2)] == [Scores((3.0,)), Scores((6.0,))]


def test_named_arguments_and_declared_needs(tmp_path: Path) -> None:
    code = "def score(subject, *, power): return subject ** power\nscore.needs = 'folder'\n"
    made = objective(tmp_path, code, kwargs={"power": 3})
    assert made.needs == "folder" and made.evaluate(2, None) == Scores((8.0,))
    other = PythonObjective(
        {"function": "mine.py:score", "kwargs": {"power": 1}, "needs": "coefficients"},
        folder=tmp_path,
    )
    assert other.needs == "coefficients"


def test_a_dotted_module_beside_the_campaign(tmp_path: Path) -> None:
    package = tmp_path / "merge_scores_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import score as score\n")
    inner = "class Box:\n    @staticmethod\n    def f(s): return 1\nscore = Box.f\n"
    (package / "inner.py").write_text(inner)
    made = PythonObjective({"function": f"{package.name}.inner:Box.f"}, folder=tmp_path)
    assert made.evaluate(None, None) == Scores((1.0,))


def test_a_file_may_import_its_neighbour_but_never_hides_a_package(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_a_test.py").write_text("two = 2\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('not this one')\n")
    code = "import json\nfrom neighbour_of_a_test import two\ndef score(s): return two\n"
    assert objective(tmp_path, code).evaluate(None, None) == Scores((2.0,))


def test_a_file_runs_once_and_not_before_it_is_needed(tmp_path: Path) -> None:
    code = "with open(__file__ + '.ran', 'a') as file: file.write('x')\n"
    first = objective(tmp_path, code + "def score(s): return 1\n")
    again = PythonObjective({"function": "mine.py:score"}, folder=tmp_path)
    assert not (tmp_path / "mine.py.ran").exists()
    first.evaluate(0, None)
    again.evaluate(0, None)
    assert (tmp_path / "mine.py.ran").read_text() == "x"


def test_items_are_copies(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"x": [1]}\n')
    code = "def score(s, items):\n    items[0]['x'].append(1)\n    return [len(items[0]['x'])]\n"
    made = objective(tmp_path, code, items="items.jsonl")
    assert made.evaluate(0, [0]) == made.evaluate(0, [0]) == Scores((2.0,))


ANSWERS: dict[str, tuple[str, Any]] = {
    "list": ("[1, 0]", Scores((1.0, 0.0))),
    "booleans": ("[True, False]", Scores((1.0, 0.0))),
    "margins": ("{'items': [1, 0], 'margins': [2, -1]}", Scores((1.0, 0.0), (2.0, -1.0))),
    "tensor": ("torch.ones(2, requires_grad=True) * 2", Scores((2.0, 2.0))),
    "tensors": ("[torch.tensor(1.5), torch.tensor(2)]", Scores((1.5, 2.0))),
    "scores": ("Scores([1, 2], torch.tensor([0.5, 1]))", Scores((1.0, 2.0), (0.5, 1.0))),
    "metrics": (
        "{'a': [1, 2], 'b': {'items': [3, 4], 'margins': [0, 1]}}",
        {"a": Scores((1.0, 2.0)), "b": Scores((3.0, 4.0), (0.0, 1.0))},
    ),
}


@pytest.mark.parametrize(("code", "wanted"), ANSWERS.values(), ids=ANSWERS)
def test_what_may_be_answered(code: str, wanted: Any, tmp_path: Path) -> None:
    head = "import torch\nfrom evomerge.trial import Scores\n"
    made = objective(tmp_path, f"{head}def score(s, items): return {code}", items=2)
    assert made.evaluate(None, [0, 1]) == wanted
    assert torch.is_grad_enabled()


NO_ANSWERS = [
    "[1]",
    "[1, 2, 3]",
    "1.0",
    "None",
    "[1, None]",
    "'12'",
    "[1, float('nan')]",
    "[[1], [2]]",
    "{'items': [1, 2], 'margins': [1]}",
    "{'items': [1, 2], 'other': 1}",
    "{'a': [1]}",
    "[1j, 1]",
]


@pytest.mark.parametrize("code", NO_ANSWERS)
def test_what_may_not(code: str, tmp_path: Path) -> None:
    made = objective(tmp_path, f"def score(s, items): return {code}", items=2)
    with pytest.raises(InvalidScoresError):
        made.evaluate(None, [0, 1])


def test_what_the_function_raises_is_passed_on(tmp_path: Path) -> None:
    made = objective(tmp_path, "def score(s): return 1 / 0")
    with pytest.raises(ZeroDivisionError):
        made.evaluate(None, None)


BAD_OPTIONS: dict[str, tuple[Mapping[str, Any], str]] = {
    "no function": ({}, "function is missing"),
    "no colon": ({"function": "mine.py"}, "file.py:name"),
    "no name": ({"function": "mine.py:"}, "file.py:name"),
    "not a module": ({"function": "my-file:score"}, "neither a .py file nor"),
    "no file": ({"function": "other.py:score"}, r"other\.py: .*cannot be read"),
    "misspelt": ({"function": "mine.py:scor"}, "did you mean 'score'"),
    "unknown option": ({"function": "mine.py:score", "item": 3}, "did you mean 'items'"),
    "bad need": (
        {"function": "mine.py:score", "needs": "gpu"},
        "model, folder, adapter, coefficients",
    ),
    "bad kwargs": ({"function": "mine.py:score", "kwargs": [1]}, "named arguments"),
    "no items": ({"function": "mine.py:score", "items": 0}, "positive count"),
    "true items": ({"function": "mine.py:score", "items": True}, "positive count"),
    "no item file": ({"function": "mine.py:score", "items": "x.jsonl"}, "x.jsonl"),
    "syntax": ({"function": "broken.py:score"}, r"broken\.py:2: not valid Python"),
    "binary": ({"function": "binary.py:score"}, r"binary\.py"),
}


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_a_mistake_is_found_when_it_is_made(
    options: Mapping[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("def score(subject, items): return items\n")
    (tmp_path / "broken.py").write_text("\ndef score(:\n")
    (tmp_path / "binary.py").write_bytes(b"\x00\xff")
    with pytest.raises(UsageError, match=words):
        make("python", options, folder=tmp_path)


BAD_FILES: dict[str, tuple[str, str]] = {
    "raises": ("1 / 0\ndef score(s): pass", "ZeroDivisionError"),
    "missing import": ("import no_such_module_here\ndef score(s): pass", "no_such_module_here"),
    "deleted": ("def score(s): pass\ndel score", "no function 'score'"),
    "not callable": ("score = 3", "a int; a function is wanted"),
    "too few": ("def score(): pass", r"\(subject\)"),
    "wants items": ("def score(s, items): pass", "no items are given"),
    "bad need": ("def score(s): pass\nscore.needs = 'x'", "needs is 'x'"),
    "constructor": ("class score:\n    def __init__(self): 1 / 0", "cannot be made"),
}


@pytest.mark.parametrize(("code", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_mistake_in_the_file_is_found_when_it_runs(code: str, words: str, tmp_path: Path) -> None:
    made = objective(tmp_path, code)
    with pytest.raises(UsageError, match=words):
        _ = made.needs


@pytest.mark.parametrize(
    "code",
    [
        "score = lambda s: 1",
        "if True:\n    def score(s): return 1\n",
        "try:\n    from nowhere import score\nexcept ImportError:\n    def score(s): return 1",
        "from math import isqrt as score",
        "with open(__file__) as f:\n    def score(s): return 1",
        "for score in (lambda s: 1,): pass",
        "def __getattr__(name): return lambda s: 1",
    ],
)
def test_every_way_to_define_a_name_is_seen(code: str, tmp_path: Path) -> None:
    assert objective(tmp_path, code).evaluate(1, None) == Scores((1.0,))


def test_items_outside_are_refused(tmp_path: Path) -> None:
    made = objective(tmp_path, "def score(s, items): return items", items=3)
    with pytest.raises(UsageError, match="of 3"):
        made.evaluate(None, [3])


def test_an_unknown_type_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="did you mean 'jsonl'"):
        make("json", {}, folder=tmp_path)


def test_nan_is_not_a_score(tmp_path: Path) -> None:
    made = objective(tmp_path, "import math\ndef score(s): return math.nan")
    with pytest.raises(InvalidScoresError, match="finite"):
        made.evaluate(math.pi, None)
