"""The whole demo, with trainings of a few steps: what it leaves, and that it continues."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evomerge.cli.running import carry_out
from evomerge.demo import run
from evomerge.demo.comparison import PUBLISHED
from evomerge.demo.run import demo, prepare
from evomerge.demo.skills import SKILLS
from evomerge.errors import StoppedError, UsageError
from evomerge.objectives.models import load_model
from evomerge.recipe.campaign import Campaign

pytestmark = pytest.mark.usefixtures("short_courses")


def quiet(line: str) -> None:
    """Takes lines and shows none."""


@pytest.fixture(autouse=True)
def few_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "ITEMS", 20)


def made(folder: Path) -> Campaign:
    return prepare(folder, trials=8, workers=1, seed=0, tell=quiet)


@pytest.mark.slow
def test_a_demo_from_nothing_to_the_table_and_on(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = demo(folder, carry_out=carry_out, tell=quiet, trials=8, workers=1)
    assert done.code == 0
    assert done.comparison is not None
    rivals = [rival.name for rival in done.comparison.rivals]
    parents = [f"parent {skill.name}" for skill in SKILLS]
    assert rivals == ["base", *parents, "uniform average", *(p.name for p in PUBLISHED)]
    assert done.chart is not None
    assert "<svg" in done.chart.read_text("utf-8")
    exported = sorted(path for path in (folder / "merged").iterdir() if path.is_dir())
    assert [path for path in exported if len(list(path.glob("*.safetensors"))) >= 2] == exported
    for path in exported:
        assert_transformers_agrees(path)
    told: list[str] = []
    more = demo(folder, carry_out=lambda c: carry_out(c, trials=9), tell=told.append)
    assert more.code == 0
    assert told == []  # nothing was trained again


def assert_transformers_agrees(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    live = load_model(folder, device="cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([list(b"def merge(self, base):")])
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits, live.module(ids), atol=1e-4, rtol=1e-5)


def test_models_and_items_are_those_of_the_seed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        made(tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert Path("models/python/model.safetensors.index.json") in files
    for file in files:
        if file.name != run.CAMPAIGN and (tmp_path / "one" / file).is_file():
            ours, theirs = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
            assert ours == theirs, file


def test_a_run_that_was_stopped_has_no_table(tmp_path: Path) -> None:
    stopped = demo(tmp_path / "demo", carry_out=lambda c: StoppedError.exit_code, tell=quiet)
    assert (stopped.code, stopped.comparison, stopped.chart) == (75, None, None)
    assert stopped.campaign.is_file()


def test_a_demo_of_another_seed_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "demo")
    with pytest.raises(UsageError, match="a demo of seed 0, not 1") as caught:
        prepare(tmp_path / "demo", trials=8, workers=1, seed=1, tell=quiet)
    assert caught.value.command is not None
    assert "--seed 1" in caught.value.command


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match="exists already"):
        made(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_training_that_breaks_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run.training, "train_specialists", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []
