"""What a campaign asks of its endpoints: a space that they can mix, a budget that they can end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from evomerge.coefficients import Mixing
from evomerge.errors import UsageError
from evomerge.recipe.findings import Finding, info, refusal, warning
from evomerge.recipe.recipe import BoundRecipe
from evomerge.recipe.specs import Budget
from evomerge.space import Array

_FLIPS = 64


def check_budget(budget: Budget, *, endpoints: bool, priced: bool) -> Iterator[Finding]:
    """A budget that nothing would ever use up.

    Args:
        endpoints: whether any objective asks a server.
        priced: whether any of them has prices.
    """
    if budget.limits_spend and not endpoints:
        text = "it limits requests, tokens or money, but no objective asks an endpoint"
        yield refusal("budget", text)
    elif budget.money is not None and not priced:
        text = "it limits money, but no objective has prices; say `prices: {prompt: ...}`"
        yield refusal("budget", text)


def check_mixing(
    bind: Callable[[], BoundRecipe], mixes: Mapping[str, Mixing | None], *, parents: bool
) -> Iterator[Finding]:
    """Whether servers can mix what is searched.

    Args:
        bind: the recipe, for its base.
        mixes: metric to what its server can mix; None where it is given merges that we make.
        parents: whether each model is measured by itself.
    """
    for metric, mixing in mixes.items():
        if mixing is None:
            continue
        wrong = unmixable(bind(), mixing, parents=parents)
        if wrong is not None:
            yield refusal(f"goal {metric}", f"its server cannot mix what is searched: {wrong}")
        elif mixing.semantics == "factor":
            text = "its server mixes the factors of adapters apart; an export of ours does not"
            yield warning(f"goal {metric}", f"{text} equal what was measured")
        else:
            yield info(f"goal {metric}", f"its server sets weights by {mixing.per}")


def unmixable(bound: BoundRecipe, mixing: Mixing, *, parents: bool) -> str | None:
    """Why a server cannot mix the references, or some of the space; None if it can mix all of it.

    Looks at the corners where all numbers are least or greatest, or but one of them.

    Args:
        parents: whether each model is measured by itself.
    """
    for reference in bound.references(parents=parents):
        candidate = bound.coefficients(reference.method, reference.parameters)
        if (wrong := mixing.problem(candidate)) is not None:
            return f"{reference.origin}: {wrong}"
    for corner in _corners(len(bound.space)):
        parameters = bound.space.values(corner)
        try:
            candidate = bound.coefficients(bound.recipe.method, parameters)
        except UsageError as error:
            return error.cause
        if (wrong := mixing.problem(candidate)) is not None:
            return wrong
    return None


def _corners(count: int) -> Iterator[Array]:
    yield np.zeros(count)
    yield np.ones(count)
    for i in range(min(count, _FLIPS)):
        yield np.eye(count)[i]
