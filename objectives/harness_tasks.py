"""Tasks of lm-evaluation-harness, item by item: requests built once, answers judged by the task.

The harness's own loop is not used: it draws the worked examples of an item from a stream that
depends on the items before it, keeps its requests and answers in the tasks, and averages away what
the search lives on. Here every item's requests are built once, in the order of the task's
documents, and copied for each evaluation. Importing this does not import the harness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import UsageError

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.tasks import TaskManager

_PER_UNIT: Mapping[str, Callable[[float], float]] = {
    "bits_per_byte": lambda nats: -nats / math.log(2),
    "byte_perplexity": lambda nats: math.exp(-nats) if nats > -700 else math.inf,
    "word_perplexity": lambda nats: math.exp(-nats) if nats > -700 else math.inf,
}
"""Values of one text from its nats per byte or word."""


@dataclass(frozen=True)
class Wanted:
    """Which tasks, and how they are put.

    Attributes:
        tasks: names of tasks, groups or tags of the harness, or paths of YAML files.
        include: folder of further YAML files; None for the harness's own tasks alone.
        shots: worked examples; None for what each task says.
        seed: of the worked examples.
        limit: the most items of each task, the first ones; None for all.
        system: an instruction before everything else.
        chat: whether prompts go through the model's chat template.
    """

    tasks: tuple[str, ...]
    include: Path | None
    shots: int | None
    seed: int
    limit: int | None
    system: str | None
    chat: bool


@dataclass(frozen=True)
class Item:
    """One document of a task with its requests, none of them answered."""

    task: Any
    doc: Any
    instances: tuple[Instance, ...]


def load_tasks(wanted: Wanted) -> list[Any]:
    """The tasks in the order of their names in the campaign, groups unfolded.

    Raises:
        UsageError: if one is not known, or its data cannot be had.
    """
    try:
        manager = _manager(wanted)
        tasks = list(manager.load(list(wanted.tasks))["tasks"].values())
    except Exception as error:  # whatever its YAML, its code and the datasets library raise
        raise UsageError(
            f"lm-eval cannot load {', '.join(wanted.tasks)}: {_first_line(error)}",
            place=None if wanted.include is None else str(wanted.include),
        ) from error
    for task in tasks:
        if wanted.shots is not None:
            task.set_config(key="num_fewshot", value=wanted.shots)
        if getattr(task, "UNSAFE_CODE", False):
            raise UsageError(
                f"the task {task.task_name} runs what the model writes; run it in a sandbox of "
                "your own, by an objective of type python"
            )
    return tasks


def count_of(task: Any, limit: int | None) -> int:
    """How many documents are asked."""
    count = len(task.eval_docs)
    return count if limit is None else min(count, limit)


def build_items(tasks: Sequence[Any], wanted: Wanted, model: Any) -> list[Item]:
    """Every item of every task, in order.

    Args:
        model: whose chat template is used, if any is.
    """
    return [item for task in tasks for item in _items(task, wanted, model)]


def answered(items: Sequence[Item], model: Any) -> list[Item]:
    """Copies of items with the model's answers, filtered as their tasks say.

    Raises:
        UsageError: if a task asks what a causal language model does not answer.
    """
    fresh = [
        replace(item, instances=tuple(replace(i, resps=[]) for i in item.instances))
        for item in items
    ]
    for instance in (instance for item in fresh for instance in item.instances):
        instance.filtered_resps = {}
    by_kind: dict[str, list[Instance]] = {}
    for item in fresh:
        for instance in item.instances:
            by_kind.setdefault(instance.request_type, []).extend(
                [instance] * (instance.repeats or 1)
            )
    for kind, asked in by_kind.items():
        for instance, answer in zip(asked, getattr(model, kind)(asked), strict=True):
            instance.resps.append(answer)
    for task in {id(item.task): item.task for item in fresh}.values():
        mine = [i for item in fresh if item.task is task for i in item.instances]
        task._instances = mine
        task.apply_filters()
        task._instances = None
    return fresh


def metrics_of(item: Item, filter_name: str | None) -> dict[str, Any]:
    """What the task makes of an answered item, by metric.

    Args:
        filter_name: which of the task's filters; None for its first.

    Raises:
        UsageError: if the task has no such filter.
    """
    known = list(item.instances[0].filtered_resps)
    if filter_name is not None and filter_name not in known:
        raise UsageError(
            f"the task {item.task.task_name} has no filter {filter_name!r}; "
            f"known: {', '.join(known)}"
        )
    found: dict[str, Any] = item.task.process_results(
        item.doc, filtered(item, filter_name or known[0])
    )
    return found


def filtered(item: Item, name: str) -> list[Any]:
    """The answers to an item's requests behind one filter."""
    return [instance.filtered_resps[name] for instance in item.instances]


def number(value: Any, metric: str, task: str) -> float:
    """A metric of one item as a number whose mean is the metric's value.

    Raises:
        UsageError: if only all items together have a value.
    """
    if isinstance(value, tuple) and len(value) == 2 and metric in _PER_UNIT:
        nats, size = value
        return _PER_UNIT[metric](nats / max(1, size))
    if isinstance(value, tuple) and len(value) == 2 and metric == "brier_score":
        gold, shares = value
        return math.fsum((share - (i == gold)) ** 2 for i, share in enumerate(shares))
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{metric} of {task} has no value for one item ({value!r:.60}); choose a metric that "
            "is a mean over items"
        ) from error


def choice_margin(item: Item, metric: str) -> float | None:
    """Log-likelihood of the right choice minus that of the best wrong one, in nats.

    Divided by characters for ``acc_norm`` and by bytes for ``acc_bytes``; None where the task does
    not say which choice is right.
    """
    texts = _choices(item)
    gold = item.task.doc_to_text(item.doc) if item.task.multiple_input else _gold(item, texts)
    rights = {gold} if isinstance(gold, int) else set(gold) if isinstance(gold, list) else set()
    if not rights or not all(isinstance(i, int) and 0 <= i < len(texts) for i in rights):
        return None
    pairs = zip(item.instances, texts, strict=False)
    nats = [i.resps[0][0] / _length(text, metric) for i, text in pairs]
    wrong = [value for i, value in enumerate(nats) if i not in rights]
    if not wrong or len(nats) < len(texts):
        return None
    return float(max(nats[i] for i in rights) - max(wrong))


def reference_request(item: Item, wanted: Wanted) -> Instance | None:
    """What asks for the likelihood of the reference answer of a text that is to be written."""
    from lm_eval.api.instance import Instance

    target = item.task.doc_to_target(item.doc)
    target = target[0] if isinstance(target, list) and target else target
    if not isinstance(target, str) or not target.strip():
        return None
    delimiter = "" if wanted.chat else item.task.config.target_delimiter
    context = item.instances[0].args[0]
    if not context:
        return None
    return Instance("loglikelihood", item.doc, (context, delimiter + target), 0)


def _manager(wanted: Wanted) -> TaskManager:
    """Of the user's folder alone where that has all the tasks: the harness's own are thousands."""
    from lm_eval.tasks import TaskManager

    if wanted.include is not None:
        manager = TaskManager(include_path=str(wanted.include), include_defaults=False)
        if _names(wanted) <= set(manager.all_tasks):
            return manager
        return TaskManager(include_path=str(wanted.include))
    return TaskManager(include_defaults=bool(_names(wanted)))


def _names(wanted: Wanted) -> set[str]:
    """Of tasks that are no files."""
    return {task for task in wanted.tasks if not Path(task).is_absolute()}


def _items(task: Any, wanted: Wanted, model: Any) -> Iterator[Item]:
    task.set_fewshot_seed(seed=wanted.seed)
    task.build_all_requests(
        limit=wanted.limit,
        system_instruction=wanted.system,
        apply_chat_template=wanted.chat,
        fewshot_as_multiturn=wanted.chat,
        chat_template=model.apply_chat_template if wanted.chat else None,
    )
    by_doc: dict[int, list[Instance]] = {}
    for instance in task.instances:
        by_doc.setdefault(instance.doc_id, []).append(instance)
    for doc_id in sorted(by_doc):
        mine = sorted(by_doc[doc_id], key=lambda instance: instance.idx)
        yield Item(task, mine[0].doc, tuple(mine))


def _length(choice: str, metric: str) -> int:
    """What a choice's log-likelihood is divided by."""
    return {"acc_norm": len(choice), "acc_bytes": len(choice.encode())}.get(metric, 1)


def _choices(item: Item) -> list[str]:
    return list(item.task.doc_to_choice(item.doc))


def _gold(item: Item, texts: Sequence[str]) -> Any:
    gold = item.task.doc_to_target(item.doc)
    return texts.index(gold) if isinstance(gold, str) and gold in texts else gold


def _first_line(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return next(iter(str(text).strip().splitlines()), type(error).__name__)
