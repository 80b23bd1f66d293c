"""Objectives by the type that a campaign file names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from evomerge.interfaces import Objective
from evomerge.registry import Registry


class ObjectiveFactory(Protocol):
    """How an objective is made; the registry's entries are these."""

    def __call__(self, options: Mapping[str, Any], *, folder: Path) -> Objective: ...


OBJECTIVES = Registry(
    "objective",
    {
        "evomerge_server": "evomerge.objectives.evomerge_server:EvomergeServerObjective",
        "python": "evomerge.objectives.python:PythonObjective",
        "jsonl": "evomerge.objectives.jsonl:JsonlObjective",
        "command": "evomerge.objectives.command:CommandObjective",
        "lm_eval": "evomerge.objectives.harness:HarnessObjective",
        "template": "evomerge.objectives.template:TemplateObjective",
        "openai": "evomerge.objectives.openai:OpenaiObjective",
        "vllm": "evomerge.objectives.vllm:VllmObjective",
        "sglang": "evomerge.objectives.sglang:SglangObjective",
        "lorax": "evomerge.objectives.lorax:LoraxObjective",
        "llama_server": "evomerge.objectives.llama_server:LlamaServerObjective",
    },
)


def make(type: str, options: Mapping[str, Any], *, folder: Path) -> Objective:
    """An objective from its entry in the campaign file; light, imports no torch.

    Args:
        type: its name in the registry.
        options: what stands beside ``type``.
        folder: the campaign file's; relative paths start there.

    Raises:
        PluginError: if no objective has this name.
        UsageError: if its options or its items are not in order.
    """
    factory: ObjectiveFactory = OBJECTIVES.load(type)
    return factory(options, folder=folder)
