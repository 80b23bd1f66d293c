"""A tiny base and LoRA adapters that a loopback server really merges, and we export."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.checkpoint.adapter_writer import ModuleFactors, write_adapter
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.models import Model, opened_in
from evomerge.coefficients import Coefficients
from evomerge.export.adapter import write_factors
from evomerge.merging.merger import Merger
from evomerge.merging.plan import MergePlan
from evomerge.objectives.jsonl import JsonlObjective
from evomerge.objectives.models import load_model
from evomerge.objectives.subject import LiveModel

RANK = 3
MODULES = ("self_attn.q_proj", "mlp.down_proj")
NAMES = ("math", "code")
Scales = Mapping[str, Mapping[int, float]]
"""By model and layer."""


@dataclass
class World:
    """A base on disk, ``math`` and ``code`` beside it.

    Attributes:
        factors: up and down by model and tensor.
    """

    base: Path
    layers: int = 2
    factors: dict[str, dict[str, tuple[Tensor, Tensor]]] = field(default_factory=dict)
    live: Any = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.live = load_model(self.base, device="cpu")
        generator = torch.Generator().manual_seed(5)
        weights = {name: p.detach() for name, p in self.live.module.named_parameters()}
        self.weights = weights
        for name in NAMES:
            self.factors[name] = {}
            modules = []
            for layer in range(self.layers):
                for part in MODULES:
                    module = f"model.layers.{layer}.{part}"
                    out, into = weights[f"{module}.weight"].shape
                    up = torch.randn(out, RANK, generator=generator) / 2
                    down = torch.randn(RANK, into, generator=generator) / 2
                    self.factors[name][f"{module}.weight"] = up, down
                    modules.append(ModuleFactors(module, False, up, down))
            folder = self.base.parent / name
            folder.mkdir()
            write_adapter(
                folder, modules, targets=[m.rpartition(".")[2] for m in MODULES],
                base=str(self.base), transposed=False, task="CAUSAL_LM",
            )  # fmt: skip

    def merged(self, scales: Scales) -> dict[str, Tensor]:
        """Parameters of the sum of scaled changes, in float32."""
        found = dict(self.weights)
        for model, by_layer in scales.items():
            for name, (up, down) in self.factors[model].items():
                scale = by_layer.get(int(name.split(".")[2]), 0.0)
                found[name] = found[name] + scale * (up @ down)
        return found

    def table(self, state: Mapping[str, Tensor], ids: Sequence[int]) -> Tensor:
        """Log-probabilities behind each token, ``(tokens, vocabulary)``."""
        # The module is lent its parameters, and a loopback answers from several threads.
        with self.lock, torch.inference_mode():
            logits = torch.func.functional_call(
                self.live.module, dict(state), (torch.tensor([list(ids)]),)
            )
        found: Tensor = logits[0].float().log_softmax(-1)
        return found

    def encode(self, text: str) -> list[int]:
        """Token ids, the special first one included."""
        found: list[int] = self.live.tokenizer.encode(text)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens."""
        found: str = self.live.tokenizer.decode(list(ids))
        return found

    def candidate(self, *weights: Sequence[float], shared: bool = False) -> Coefficients:
        """Weights of math and code, in each layer or in all alike."""
        groups = {"all": tuple(range(self.layers))} if shared else {
            str(layer): (layer,) for layer in range(self.layers)
        }  # fmt: skip
        rows = [tuple(map(float, row)) for row in weights]
        settings: dict[str, dict[str, float | tuple[float, ...]]] = {
            group: {"weight": row, "scaling": 1.0} for group, row in zip(groups, rows, strict=True)
        }
        return Coefficients("task_arithmetic", NAMES, settings, groups)

    def exported(self, candidate: Coefficients, name: str = "merge") -> Path:
        """The candidate as our engine writes it."""
        folder = self.base.parent / name
        with ExitStack() as stack:
            base, models = self.opened(stack)
            folder.mkdir()
            for file in base.side_files():
                (folder / file.name).write_bytes(file.read_bytes())
            Merger(base, models).write(self.plan(candidate), folder)
        return folder

    def adapter(self, candidate: Coefficients, name: str = "merged") -> Path:
        """The candidate as one adapter."""
        folder = self.base.parent / name
        with ExitStack() as stack:
            base, models = self.opened(stack)
            folder.mkdir()
            write_factors(
                Merger(base, models), self.plan(candidate), folder,
                base=base, models=list(models.values()),
            )  # fmt: skip
        return folder

    def opened(self, stack: ExitStack) -> tuple[Checkpoint, dict[str, Model]]:
        """Base and adapters, as a campaign opens them."""
        base = stack.enter_context(Checkpoint.open(self.base))
        return base, {m: opened_in(stack, self.base.parent / m) for m in NAMES}

    def plan(self, candidate: Coefficients) -> MergePlan:
        """The candidate for our engine."""
        by_layer = candidate.weights_by_layer()
        tensors: dict[str, dict[str, float | tuple[float, ...]]] = {
            tensor: {
                "weight": tuple(by_layer[m][int(tensor.split(".")[2])] for m in NAMES),
                "scaling": 1.0,
            }
            for tensor in self.factors["math"]
        }
        return MergePlan("task_arithmetic", NAMES, tensors)

    def written(self, candidate: Coefficients, prompt: str, count: int) -> str:
        """The likeliest tokens behind a prompt, one after the other."""
        state = self.merged(candidate.weights_by_layer())
        ids = self.encode(prompt)
        read = len(ids)
        for _ in range(count):
            ids.append(int(self.table(state, ids)[-1].argmax()))
        return self.decode(ids[read:])

    def local(self, candidate: Coefficients, items: Path, **options: Any) -> Any:
        """What the local objective says of the candidate's export."""
        model = load_model(self.exported(candidate), device="cpu")
        assert isinstance(model, LiveModel)
        made = JsonlObjective({"items": items.name, **options}, folder=items.parent)
        return made.evaluate(model, None)

    def campaign(
        self, items: Path, objective: str, *, groups: str = "{layers: all}", home: bool = False
    ) -> Path:
        """A campaign of two trials over base and adapters.

        Args:
            home: whether each merge is measured by the local objective too, as ``home``.
        """
        local = (
            "  - metric: home\n"
            f"    objective: {{type: jsonl, items: {items.name}, metrics: probability}}\n"
        )
        path = self.base.parent / "campaign.yaml"
        path.write_text(
            f"""
base: {self.base.name}
models: {{math: math, code: code}}
merge: {{method: task_arithmetic, groups: {groups}, scaling: {{fixed: 1.0}}}}
goals:
  - metric: skill
    objective:
      {{items: {items.name}, {objective},
       connection: {{retries: 4, first_wait: 0.001, longest_wait: 0.01, concurrency: 1}}}}
{local if home else ""}sampler: random
budget: {{trials: 2}}
study: study
"""
        )
        return path
