"""The objective that is the user's own Python.

::

    objective: {type: python, function: my_objective.py:score, items: items.jsonl}

A function is called as ``score(subject, items)`` and answers one number per item; without items,
as ``score(subject)``, and answers one number. A class is made once per worker, with `kwargs`, and
its ``evaluate`` is called the same way.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from evomerge.errors import UsageError
from evomerge.interfaces import Need
from evomerge.objectives import options as read
from evomerge.objectives.functions import check_reference, load_function
from evomerge.objectives.items import items_of
from evomerge.trial import Scores

OPTIONS = ("function", "items", "needs", "kwargs")


class PythonObjective:
    """A user's function or class as an `evomerge.interfaces.Objective`.

    Making one reads the items and looks for the function in its file; the file is run when
    `needs` or `evaluate` is first used.

    Args:
        options: ``function``: ``file.py:name`` or ``package.module:name``; ``items``: a JSONL
            file, whose values are passed on, or how many items there are, whose indices are;
            ``needs``: model, folder or coefficients, by default the function's attribute of that
            name, else model; ``kwargs``: further named arguments.
        folder: what relative paths start from.

    Raises:
        UsageError: if an option is unknown or senseless, or the items or function are not there.
    """

    def __init__(self, options: Mapping[str, Any], *, folder: Path) -> None:
        read.check_names(options, OPTIONS)
        self._folder = folder
        self._reference = read.required_text(options, "function", "my_objective.py:score")
        self._needs = options.get("needs")
        self._kwargs = _kwargs(options.get("kwargs"))
        self._items = items_of(options.get("items"), folder)
        check_reference(self._reference, folder)
        if self._needs is not None:
            _check_need(self._needs)

    @property
    def count(self) -> int | None:
        """How many items there are; None without items."""
        return None if self._items is None else len(self._items)

    @property
    def needs(self) -> Need:
        """What the function is given; runs its file.

        Raises:
            UsageError: if the function cannot be loaded or called.
        """
        return self._loaded[1]

    def evaluate(self, subject: Any, items: Sequence[int] | None) -> Scores | Mapping[str, Scores]:
        """What the function answers, checked; by metric if it answers a mapping by metric.

        Raises:
            InvalidScoresError: if that is not one finite number per item.
            UsageError: if the function cannot be loaded, or items are asked that there are not.
        """
        call = self._loaded[0]
        answer = call(subject) if items is None else call(subject, self._values(items))
        count = None if items is None else len(items)
        if isinstance(answer, Mapping) and "items" not in answer:
            return {str(key): _scores(answer[key], count, str(key)) for key in answer}
        return _scores(answer, count, self._reference)

    def _values(self, items: Sequence[int]) -> list[Any]:
        """Copies, so that a function may do to them what it likes."""
        values = self._items
        if values is None or not all(0 <= i < len(values) for i in items):
            raise UsageError(f"{self._reference}: items {list(items)!r:.80} of {self.count} asked")
        return [copy.deepcopy(values[i]) for i in items]

    @functools.cached_property
    def _loaded(self) -> tuple[Callable[..., Any], Need]:
        found = load_function(self._reference, self._folder)
        need = _check_need(self._needs or getattr(found, "needs", "model"))
        call = _callable(found, self._kwargs, self._reference)
        _check_arguments(call, self._items is not None, self._reference)
        return call, need


def _kwargs(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise UsageError(f"kwargs is {given!r:.80}; named arguments are wanted")
    return copy.deepcopy(dict(given))


def _check_need(need: Any) -> Need:
    if need not in get_args(Need):
        raise UsageError(f"needs is {need!r}; one of {', '.join(get_args(Need))} is wanted")
    return cast(Need, need)


def _callable(found: Any, kwargs: Mapping[str, Any], reference: str) -> Callable[..., Any]:
    """What is called with the subject and the items."""
    if isinstance(found, type):
        try:
            found = found(**kwargs)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise UsageError(f"{reference} cannot be made: {cause}") from error
        kwargs = {}
    call = getattr(found, "evaluate", found)
    if not callable(call):
        raise UsageError(f"{reference} is a {type(found).__name__}; a function is wanted")
    return functools.partial(call, **kwargs)


def _check_arguments(call: Callable[..., Any], items: bool, reference: str) -> None:
    """Refuse a signature that cannot be called; one that cannot be read is left to the call."""
    try:
        signature = inspect.signature(call)
    except (ValueError, TypeError):
        return
    try:
        signature.bind(*(["subject", "items"] if items else ["subject"]))
    except TypeError as error:
        wanted = "(subject, items)" if items else "(subject), for no items are given"
        raise UsageError(f"{reference} cannot be called as {wanted}: {error}") from error


def _scores(answer: Any, count: int | None, metric: str) -> Scores:
    """`Scores.of`, after torch tensors have come to the CPU and left autograd."""
    if isinstance(answer, Mapping):
        answer = {key: _numbers(value) for key, value in answer.items()}
    elif isinstance(answer, Scores):
        answer = Scores(_numbers(answer.items), _numbers(answer.margins))
    else:
        answer = _numbers(answer)
    return Scores.of(answer, count, metric=metric)


def _numbers(values: Any) -> Any:
    if isinstance(values, list | tuple):
        return [_numbers(value) for value in values]
    return values.detach().cpu().tolist() if hasattr(values, "detach") else values
