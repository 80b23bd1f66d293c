"""A candidate's numbers as places in a request, and what a campaign file says a server can mix."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from evomerge.coefficients import Coefficients, Mixing
from evomerge.errors import UsageError
from evomerge.objectives import options as read
from evomerge.objectives.endpoint.failures import EndpointError

DECIMALS = 6
"""Digits of a weight that are sent: most servers hold float32."""

PLACES = (
    "candidate",
    "weights",
    "weight_list",
    "densities",
    "models",
    "coefficients",
    "method",
)
"""What `numbers` fills."""


def numbers(subject: Coefficients, mixing: Mixing) -> dict[str, Any]:
    """Values of `PLACES`.

    Raises:
        EndpointError: if the server cannot mix this candidate.
    """
    wrong = mixing.problem(subject)
    if wrong is not None:
        raise EndpointError(f"the server cannot mix this candidate: {wrong}")
    weights = _weights(subject, mixing)
    rounded = {name: round(value, DECIMALS) for name, value in subject.items()}
    return {
        "candidate": candidate_name([subject.method, rounded]),
        "weights": weights,
        "weight_list": [weights[model] for model in subject.models],
        "densities": _densities(subject, mixing),
        "models": list(subject.models),
        "coefficients": rounded,
        "method": subject.method,
    }


def candidate_name(content: Any) -> str:
    """``evm-`` and 16 hexadecimal digits of what a candidate is, JSON: equal ones share it."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"evm-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _weights(subject: Coefficients, mixing: Mixing) -> dict[str, Any]:
    if mixing.per == "model":
        flat = subject.weights_by_model()
        return {model: round(weight, DECIMALS) for model, weight in flat.items()}
    if mixing.per == "group":
        nested: Mapping[str, Mapping[Any, float]] = subject.weights_by_group()
    else:
        nested = subject.weights_by_layer()
    return {
        model: {str(part): round(weight, DECIMALS) for part, weight in weights.items()}
        for model, weights in nested.items()
    }


def _densities(subject: Coefficients, mixing: Mixing) -> Any:
    by_model = {
        model: {group: round(subject.density(model, group), DECIMALS) for group in subject.groups}
        for model in subject.models
    }
    if mixing.density == "group":
        return by_model
    firsts = {model: next(iter(densities.values())) for model, densities in by_model.items()}
    return next(iter(firsts.values())) if mixing.density == "all" else firsts


def mixing_of(given: Any) -> Mixing:
    """The option ``mixes``: fields of `Mixing`.

    Raises:
        UsageError: if a field is unknown or senseless.
    """
    if not isinstance(given, Mapping):
        raise UsageError("mixes: a mapping, such as {per: model, signed: true}, is wanted")
    read.check_names(given, ("per", "signed", "most", "density", "methods", "semantics"))
    made: dict[str, Any] = {
        "per": read.choice(given, "per", ("model", "layer", "group")),
        "semantics": read.choice(given, "semantics", ("delta", "factor")),
        "signed": read.flag(given, "signed") if "signed" in given else True,
    }
    most, methods = given.get("most"), given.get("methods")
    if most is not None:
        if isinstance(most, bool) or not isinstance(most, int | float) or most <= 0:
            raise UsageError(f"mixes.most is {most!r:.40}; a number above 0 is wanted")
        made["most"] = float(most)
    if given.get("density") is not None:
        made["density"] = read.choice(given, "density", ("all", "model", "group"))
    if methods is not None:
        if not isinstance(methods, list) or not all(isinstance(name, str) for name in methods):
            raise UsageError(f"mixes.methods is {methods!r:.60}; a list of methods is wanted")
        made["methods"] = frozenset(methods)
    return Mixing(**made)
