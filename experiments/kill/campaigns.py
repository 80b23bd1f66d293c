"""Tiny real campaigns to be killed: real safetensors, a real objective, seconds from end to end.

Every worker also starts a process of its own, in a session of its own, that would outlive it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from answering import url
from safetensors.numpy import save_file

from evomerge.randomness import generator

Mode = Literal["coefficients", "folder", "model", "endpoint"]

SHAPES = {f"model.layers.{i}.mlp.up_proj.weight": (8, 8) for i in range(4)}
OBJECTIVE = """
import math, os, subprocess, sys, time
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = {seconds}
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"],
                 start_new_session=True)  # an inference server, say


def note(numbers, items):
    line = f"{{sum(numbers)!r}} {{items[0] if items else '-'}}\\n"
    with open(os.environ["EVOMERGE_KILL_CALLS"], "a") as calls:
        calls.write(line)


def waves(numbers, items):
    time.sleep(SECONDS)
    note(numbers, items)
    return [math.sin(3 * sum(numbers) + item) for item in items]


def bowl(numbers, items):
    return [-sum((x - 0.3 - 0.01 * item) ** 2 for x in numbers) for item in items]


def read(subject):
    if isinstance(subject, dict):
        return list(subject.values())
    if isinstance(subject, Path):
        from safetensors.numpy import load_file

        tensors = load_file(subject / "model.safetensors").values()
    else:
        tensors = [p.detach().numpy() for p in subject.module.parameters()]
    return [float(tensor[0, 0]) for tensor in tensors]


def score(subject, items):
    numbers = read(subject)
    return {{"waves": waves(numbers, items), "bowl": bowl(numbers, items)}}


score.needs = "{mode}"


def load(folder):
    import torch
    from safetensors.torch import load_file

    root = torch.nn.Module()
    for name, tensor in load_file(folder / "model.safetensors").items():
        place = root
        *path, last = name.split(".")
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        place.register_parameter(last, torch.nn.Parameter(tensor))
    return root
"""
PYTHON = "{type: python, function: objective.py:score, items: 20}"
ENDPOINT = """{type: template, url: "%s", items: 20, score: $.score,
     request: {mix: "{weights}", index: "{index}"}, mixes: {per: group, density: group}}"""
CAMPAIGN = """
base: ../models/base
models: {{one: ../models/one, two: ../models/two}}
merge: {{method: sparse_signed, groups: {{layers: 2}}}}
goals:
  - {{metric: waves, objective: {objective}}}
  - {{metric: bowl, objective: {objective}}}
sampler: {sampler}
budget: {{trials: {trials}}}
study: study
{loader}
"""


def write_models(folder: Path) -> None:
    """A base and two descendants of it, ``folder/base``, ``folder/one`` and ``folder/two``."""
    base = {name: generator(0, "base", name).normal(size=shape) for name, shape in SHAPES.items()}
    for model, step in (("base", 0.0), ("one", 0.3), ("two", 0.3)):
        place = folder / model
        place.mkdir(parents=True)
        tensors = {
            name: (tensor + step * generator(0, model, name).normal(size=tensor.shape)).astype(
                np.float32
            )
            for name, tensor in base.items()
        }
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        (place / "config.json").write_text('{"model_type": "tiny"}')


def write_campaign(
    folder: Path, *, mode: Mode, trials: int, sampler: str, seconds: float = 0.02
) -> Path:
    """A campaign file with its objective; the models lie in ``folder/../models``.

    Args:
        seconds: that one evaluation sleeps.
    """
    folder.mkdir(parents=True)
    (folder / "objective.py").write_text(OBJECTIVE.format(mode=mode, seconds=seconds))
    loader = "loader: objective.py:load" if mode == "model" else ""
    path = folder / "campaign.yaml"
    objective = ENDPOINT % url() if mode == "endpoint" else PYTHON
    text = CAMPAIGN.format(trials=trials, sampler=sampler, loader=loader, objective=objective)
    path.write_text(text)
    return path
