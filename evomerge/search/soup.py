"""Greedy soup: models join the average in the order of their scores, unless it gets worse.

Wortsman et al. 2022 (arXiv:2203.05482), Recipe 1. M models take M evaluations, which are the
campaign's references, and up to M - 1 for the averages.

An average is one point of the space, so what was measured before, by whatever sampler, is not
measured again. While a result is awaited, the averages that either outcome would need are proposed;
with ``lookahead: 0`` none of them is needless. What is left of a budget is spent on small steps
around the soup.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from evomerge.interfaces import Log, Proposal, SearchProblem
from evomerge.randomness import generator
from evomerge.search.mixtures import FAILED, Key, Mixtures, Results
from evomerge.search.options import no_options
from evomerge.search.quasirandom import folded

STEP = 0.05
"""Standard deviation in the unit cube of the steps around a finished soup."""

Soup = tuple[str, ...]


def make(problem: SearchProblem, options: Mapping[str, Any]) -> GreedySoup:
    """The sampler ``greedy_soup``; takes no options.

    Raises:
        UsageError: where averages of the models are not in the space; see `Mixtures.check`.
    """
    no_options("greedy_soup", options)
    mixtures = Mixtures("greedy_soup", problem.space)
    mixtures.check(problem)
    for size in range(2, len(mixtures.models) + 1):
        mixtures.average(mixtures.models[:size])
    return GreedySoup(mixtures, problem.seed)


@dataclass(frozen=True)
class GreedySoup:
    """See `evomerge.interfaces.Sampler`."""

    mixtures: Mixtures
    seed: int
    name: str = "greedy_soup"

    def ask(self, log: Log, number: int) -> Proposal:
        """The first average that is wanted and was not asked; else a step around the soup."""
        results = Results.of(log)
        last: Soup = self.mixtures.models
        for soup in self._wanted(results):
            last = soup
            point = self.mixtures.average(soup)
            if not results.has(point):
                return Proposal(point, {"soup": list(soup)})
        steps = generator(self.seed, "soup", number).normal(size=len(self.mixtures.space))
        return Proposal(folded(self.mixtures.average(last) + STEP * steps), {})

    def _wanted(self, results: Results) -> Iterator[Soup]:
        """Averages in the order in which they matter; the last one, all known, is the soup."""
        models = self.mixtures.models
        keys = {model: self._key(results, (model,)) for model in models}
        yield from ((model,) for model in models)
        if any(key is None for key in keys.values()):
            # The order is not known yet, so any of these may be needed.
            for size in range(2, len(models) + 1):
                yield from combinations(models, size)
            return
        ranked = [m for m in sorted(models, key=lambda m: keys[m] or FAILED) if keys[m] != FAILED]
        if ranked:
            yield from self._grown(results, ranked)

    def _grown(self, results: Results, ranked: list[str]) -> Iterator[Soup]:
        """Soups and the averages that they are compared with, by how many models were tried."""
        waiting: deque[tuple[Soup, int]] = deque([((ranked[0],), 1)])
        while waiting:
            soup, tried = waiting.popleft()
            if tried == len(ranked):
                yield soup
                continue
            larger = self._in_order((*soup, ranked[tried]))
            yield larger
            now, then = self._key(results, soup), self._key(results, larger)
            if now is None or then is None:
                waiting += [(larger, tried + 1), (soup, tried + 1)]
            else:
                waiting.append((larger if then <= now else soup, tried + 1))

    def _in_order(self, soup: Soup) -> Soup:
        """An average does not depend on the order in which its models came."""
        return tuple(model for model in self.mixtures.models if model in soup)

    def _key(self, results: Results, soup: Soup) -> Key | None:
        return results.key(self.mixtures.average(soup))
