"""From parameters to scores: what one objective does to the model, the next does not see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.messages import Job, Setup

CODE = """
import torch

def load(folder):
    module = torch.nn.Module()
    part = module
    for name in ("model", "layers", "0", "mlp"):
        part.add_module(name, torch.nn.Module())
        part = getattr(part, name)
    part.up_proj = torch.nn.Linear(4, 4, bias=False)
    return module

def total(model, items):
    parameter = next(model.module.parameters())
    found = float(parameter.double().sum())
    parameter.zero_()
    return [found] * len(items)

def a(model, items):
    return total(model, items)

def b(model, items):
    return total(model, items)
"""


def test_an_objective_that_writes_to_the_model_spoils_no_other(
    write_campaign: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_campaign(("sampler: random", "loader: score.py:load\nsampler: random"))
    (tmp_path / "score.py").write_text(CODE)
    evaluator = Evaluator.load(Setup(file, file.read_text()))
    job = Job(
        attempt=1,
        token="t",
        trial=0,
        folder=tmp_path,
        scratch=tmp_path,
        method="task_arithmetic",
        parameters={"math/*/weight": 0.5, "code/*/weight": 0.25, "*/scaling": 1.0},
        splits={split: {"a": (0, 1), "b": (0, 1)} for split in ("selection", "test")},
    )
    found = {
        score
        for evaluation in evaluator.evaluate(job).values()
        for scores in evaluation.scores.values()
        for score in scores.items
    }
    assert len(found) == 1 and found != {0.0}
