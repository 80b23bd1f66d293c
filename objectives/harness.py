"""The objective for tasks of lm-evaluation-harness, on the live model, chosen items only.

::

    objective: {type: lm_eval, task: arc_easy}

The harness puts the prompts and judges the answers (`evomerge.objectives.harness_tasks`); our own
model reads and writes (`evomerge.objectives.harness_model`), so that no parameters are copied and
nothing is remembered from one candidate to the next. Importing this loads neither torch nor the
harness, which the extra ``lm-eval`` brings.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import UsageError
from evomerge.interfaces import Need
from evomerge.objectives import options as read
from evomerge.objectives.harness_tasks import (
    Item,
    Wanted,
    answered,
    build_items,
    choice_margin,
    count_of,
    load_tasks,
    metrics_of,
    number,
    reference_request,
)
from evomerge.objectives.metrics import Metrics
from evomerge.objectives.subject import LiveModel
from evomerge.trial import Scores

if TYPE_CHECKING:
    from evomerge.objectives.batches import Batches
    from evomerge.objectives.harness_model import HarnessModel

OPTIONS = (
    "task",
    "metrics",
    "include_path",
    "filter",
    "shots",
    "shots_seed",
    "limit",
    "system",
    "chat",
    "batch_size",
)
_SEED = 1234  # of everything that tasks draw from the global generators


class HarnessObjective:
    """Tasks of lm-evaluation-harness as one `evomerge.interfaces.Objective`.

    The items of several tasks stand one after the other, and the value is the mean over them.

    Args:
        options: ``task``: a task, group or tag, a YAML file, or a list of such; ``metrics``: see
            `evomerge.objectives.metrics.Metrics`, by default the first of the task;
            ``include_path``: a folder with YAML files of tasks; ``filter``: of the task's, by
            default its first; ``shots``, ``shots_seed``: worked examples, by default as the task
            says; ``limit``: the first items of each task alone; ``system``, ``chat``: an
            instruction, and whether prompts go through the chat template; ``batch_size``: rows at
            a time, by default 8 on a CPU and 64 on a GPU.
        folder: what relative paths start from.

    Raises:
        UsageError: if an option is not in order or the harness is not installed.
    """

    reads_logits = True  # so that fused logits are as good to it as one model's

    def __init__(self, options: Mapping[str, Any], *, folder: Path) -> None:
        read.check_names(options, OPTIONS)
        include = read.text(options, "include_path")
        self._wanted = Wanted(
            tasks=_tasks(options.get("task"), folder),
            include=None if include is None else folder / Path(include).expanduser(),
            shots=read.whole(options, "shots") if "shots" in options else None,
            seed=read.whole(options, "shots_seed", _SEED),
            limit=read.count(options, "limit"),
            system=read.text(options, "system"),
            chat=read.flag(options, "chat"),
        )
        self._named = options.get("metrics")
        if self._named is not None:
            Metrics.read(self._named, None)
        self._filter = read.text(options, "filter")
        self._batch_size = read.count(options, "batch_size")
        if importlib.util.find_spec("lm_eval") is None:
            raise UsageError(
                "this objective needs the extra lm-eval, which is not installed",
                command="pip install 'evomerge[lm-eval]'",
            )
        self._built: tuple[Any, list[Item]] = (None, [])
        self._batches: Batches | None = None

    @property
    def needs(self) -> Need:
        """The live model."""
        return "model"

    @cached_property
    def count(self) -> int:
        """How many items there are; loads the tasks.

        Raises:
            UsageError: if one is not known, or its data cannot be had.
        """
        return sum(count_of(task, self._wanted.limit) for task in self._tasks)

    @cached_property
    def _tasks(self) -> list[Any]:
        from evomerge.objectives.shield import global_random_state

        with global_random_state(_SEED):
            tasks = load_tasks(self._wanted)
        for task in tasks:
            if self._named is not None:
                Metrics.read(self._named, list(task.aggregation()))
        return tasks

    def evaluate(
        self, subject: LiveModel, items: Sequence[int] | None
    ) -> Scores | Mapping[str, Scores]:
        """Scores and margins in the order of the items.

        Args:
            subject: with a causal language model.
            items: indices in [0, count), repeats allowed; None for all.

        Raises:
            UsageError: if the model is no causal language model, or a task does not fit it.
        """
        import torch

        from evomerge.objectives.batches import Batches
        from evomerge.objectives.harness_model import HarnessModel
        from evomerge.objectives.shield import global_random_state

        language = subject.causal
        tasks = self._tasks
        if self._batches is None:
            self._batches = Batches.on(subject.device, self._batch_size)
        model = HarnessModel(language, self._batches, subject.device)
        with torch.inference_mode(), global_random_state(_SEED):
            if self._built[0] is not subject.tokenizer:
                self._built = (subject.tokenizer, build_items(tasks, self._wanted, model))
            every = self._built[1]
            wanted = range(len(every)) if items is None else items
            chosen = answered([every[i] for i in wanted], model)
            rates = _rates(model, chosen)
            found = [metrics_of(item, self._filter) for item in chosen]
            metrics = self._metrics(found)
            return metrics.answer(
                {
                    metric: Scores(
                        [
                            number(by_metric[metric], metric, item.task.task_name)
                            for item, by_metric in zip(chosen, found, strict=True)
                        ],
                        self._margins(chosen, metric, model),
                        rates,
                    )
                    for metric in metrics.wanted
                }
            )

    def _metrics(self, found: Sequence[Mapping[str, Any]]) -> Metrics:
        """Those that the campaign names, or the first of the task."""
        known = [name for name in found[0] if all(name in by_metric for by_metric in found)]
        if not known:
            raise UsageError(f"the tasks {', '.join(self._wanted.tasks)} have no metric in common")
        return Metrics.read(self._named, known)

    def _margins(
        self, chosen: Sequence[Item], metric: str, model: HarnessModel
    ) -> list[float] | None:
        """How far each answer was from flipping; None unless that is known of all."""
        margins: list[float | None] = [None] * len(chosen)
        references: dict[int, Any] = {}
        for index, item in enumerate(chosen):
            kind = item.task.OUTPUT_TYPE
            if kind == "multiple_choice":
                margins[index] = choice_margin(item, metric)
            elif kind == "loglikelihood":
                margins[index] = float(item.instances[0].resps[0][0])
            elif kind == "generate_until":
                request = reference_request(item, self._wanted)
                if request is not None:
                    references[index] = request
        means = model.mean_log_probabilities(list(references.values()))
        for index, mean in zip(references, means, strict=True):
            margins[index] = mean
        known = [margin for margin in margins if margin is not None]
        return known if len(known) == len(margins) else None


def _rates(model: HarnessModel, chosen: Sequence[Item]) -> dict[str, float]:
    """Shares of requests that were cut or whose text did not come to an end."""
    requests = max(1, sum(len(item.instances) for item in chosen))
    rates = {"truncated": model.cut / requests, "invalid": model.unfinished / requests}
    return {name: min(1.0, rate) for name, rate in rates.items() if rate}


def _tasks(given: Any, folder: Path) -> tuple[str, ...]:
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not names:
        names = [None]
    if not all(isinstance(name, str) and name for name in names):
        raise UsageError(
            f"task is {given!r:.60}; a task of lm-eval or a list of tasks is wanted, such as "
            "`task: arc_easy`"
        )
    return tuple(
        str((folder / Path(name).expanduser()).absolute())
        if name.endswith((".yaml", ".yml"))
        else name
        for name in names
    )
