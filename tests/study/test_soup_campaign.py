"""A greedy soup as a user runs it: a campaign file, and nothing but asks and tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evomerge.study.study import Study

EDITS = (
    ("method: sparse_signed", "method: linear"),
    ("sampler: random", "sampler: greedy_soup"),
    ("lookahead: 2", "lookahead: 0"),
    ("budget: {trials: 12}", "budget: {trials: 7}"),
    ("models: {math: math, code: code}", "models: {math: math, code: code, chat: code}"),
    (
        "goals:\n",
        "goals:\n  - {metric: a, objective: {type: python, function: score.py:a, items: 10}}\n#",
    ),
    ("\n  - {metric: b", "\n#"),
)
BEST = {"math": 0.5, "code": 0.5, "chat": 0.0}


def test_the_best_pair_is_found_in_one_trial_less_than_there_are_models(
    write_campaign: Callable[..., Path],
) -> None:
    path = write_campaign(*EDITS)
    found = []
    with Study.open(path) as study:
        for _ in range(7):
            candidate = study.ask(1)[0]
            weights = {n.split("/")[0]: v for n, v in candidate.parameters.items()}
            score = -sum((weights.get(m, 0.0) - w) ** 2 for m, w in BEST.items())
            if candidate.origin in ("parent math", "parent code"):
                score += 0.01 * (candidate.origin == "parent math")
            study.tell(candidate, {"a": score})
            found.append((candidate.origin, {m for m, w in weights.items() if w > 1e-9}))
        best = study.front()[0]
    origins = [origin for origin, _ in found]
    assert origins[:5] == ["base", "parent math", "parent code", "parent chat", "uniform"]
    # The average of all three is the reference, so only the pair is left to measure.
    assert found[5] == ("greedy_soup", {"math", "code"})
    assert best.number == 5
