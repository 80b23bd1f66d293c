"""Top-k greedy merging with kinship: the best merges are averaged, pair by pair.

After Hu et al. 2024 (arXiv:2410.12613), as we define it: of all that was measured, the pair with
the best ranks among the ``top`` best that has not been averaged is averaged next. Every third
proposal is the best with what is least akin to it instead, lest all become alike. Pairs beyond the
best follow where those are used up.

Kinship of two mixtures is the cosine of their task vectors. It follows from the cosines of the
models, which are an option (``evomerge inspect`` measures them); where one is not given it is 0, as
of models that were trained for different things. Task vectors count as equally long.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from evomerge.errors import UsageError
from evomerge.interfaces import Log, Proposal, SearchProblem
from evomerge.randomness import generator
from evomerge.search.mixtures import FAILED, Mixtures, Results
from evomerge.search.options import known_options, whole
from evomerge.search.quasirandom import folded
from evomerge.space import Array

TOP = 3
EXPLORING = 3
STEP = 0.05


def make(problem: SearchProblem, options: Mapping[str, Any]) -> KinshipMerging:
    """The sampler ``kinship``.

    Args:
        options: ``top``, how many of the best are paired, 3 by default; ``kin``, cosines by two
            models' names with a space between.

    Raises:
        UsageError: on other options, and where mixtures are not in the space.
    """
    known_options("kinship", options, ("top", "kin"))
    mixtures = Mixtures("kinship", problem.space)
    mixtures.check(problem)
    cosines = _cosines(mixtures.models, options.get("kin", {}))
    top = whole("kinship", options, "top", low=2) or TOP
    return KinshipMerging(mixtures, cosines, top, problem.seed)


@dataclass(frozen=True)
class KinshipMerging:
    """See `evomerge.interfaces.Sampler`.

    Attributes:
        cosines: ``(M, M)``, of the models.
    """

    mixtures: Mixtures
    cosines: Array
    top: int
    seed: int
    name: str = "kinship"

    def ask(self, log: Log, number: int) -> Proposal:
        """The average of the first pair whose average was not asked."""
        results = Results.of(log)
        members = self._members(results)
        for one, other in self._pairs(members, exploring=results.own % EXPLORING == EXPLORING - 1):
            point = self.mixtures.point(self._named((members[one] + members[other]) / 2))
            if not results.has(point):
                return Proposal(point, {})
        start = self.mixtures.average(self.mixtures.models)
        if members:
            start = self.mixtures.point(self._named(members[0]))
        steps = generator(self.seed, "kinship", number).normal(size=len(self.mixtures.space))
        return Proposal(folded(start + STEP * steps), {})

    def _members(self, results: Results) -> list[Array]:
        """Weights of what was measured, ``(M,)`` each, the best first; the base is none."""
        ended = [(key, point) for point, key in results.keys.items() if key != FAILED]
        ended.sort(key=lambda pair: pair[0])
        found = [self.mixtures.weights(results.asked[point]) for _, point in ended]
        vectors = [np.array([weights[m] for m in self.mixtures.models]) for weights in found]
        return [vector for vector in vectors if vector.any()]

    def _pairs(self, members: Sequence[Array], *, exploring: bool) -> Iterator[tuple[int, int]]:
        """Places of two members each, in the order of preference."""
        if exploring and len(members) > 1:
            akin = [self._kinship(members[0], member) for member in members[1:]]
            for place in np.argsort(akin, kind="stable").tolist():
                yield 0, place + 1
        best = min(self.top, len(members))
        for last in range(best, len(members) + 1):
            yield from sorted(combinations(range(last), 2), key=lambda pair: (sum(pair), pair))

    def _kinship(self, one: Array, other: Array) -> float:
        pairs = (one, other), (one, one), (other, other)
        inner, first, second = (float(a @ self.cosines @ b) for a, b in pairs)
        length = math.sqrt(max(0.0, first * second))
        return inner / length if length else 0.0

    def _named(self, weights: Array) -> dict[str, float]:
        return dict(zip(self.mixtures.models, weights.tolist(), strict=True))


def _cosines(models: Sequence[str], given: Any) -> Array:
    """A symmetric matrix from ``{"math code": 0.3}``."""
    if not isinstance(given, Mapping):
        raise UsageError(f"kin of the sampler kinship is {given!r}; {{'math code': 0.3}} is wanted")
    found = np.eye(len(models))
    for words, value in given.items():
        pair = str(words).split()
        if len(set(pair)) != 2 or not set(pair) <= set(models):
            known = ", ".join(models)
            raise UsageError(f"kin names {words!r}; two of these models are wanted: {known}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1 <= value <= 1:
            raise UsageError(f"kin of {words!r} is {value!r}; a cosine lies in [-1, 1]")
        i, j = (models.index(word) for word in pair)
        found[i, j] = found[j, i] = float(value)
    return found
