"""A campaign with the sampler `margin`: items go from the database to the sampler and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evomerge.interfaces import Observation
from evomerge.study.foresight import foresee
from evomerge.study.study import Study
from evomerge.trial import Candidate, Scores


def measured(candidate: Candidate) -> dict[str, Scores]:
    """Six items each; goal b is minimised."""
    values = np.array(list(candidate.parameters.values()))
    margins = {"a": 1.0 - np.linspace(0.5, 2, 6) * abs(values.sum() - 1.0)}
    margins["b"] = np.linspace(-1, 1, 6) + values[0]
    return {m: Scores((x > 0).astype(float).tolist(), x.tolist()) for m, x in margins.items()}


def run(file: Path, *, reopen: bool) -> list[dict[str, float]]:
    study, asked = Study.open(file), list[dict[str, float]]()
    try:
        while (candidate := study.ask_next()) is not None:
            asked.append(dict(candidate.parameters))
            study.tell(candidate, measured(candidate))
            if reopen and candidate.number % 5 == 4:
                study.close()
                study = Study.open(file)
    finally:
        study.close()
    return asked


def test_a_resumed_campaign_asks_the_same(
    tmp_path: Path, make_campaign: Callable[..., Path]
) -> None:
    edits = ("sampler: random", "sampler: margin"), ("trials: 12", "trials: 22")
    folders = [tmp_path / "straight", tmp_path / "resumed"]
    for folder in folders:
        folder.mkdir()
    straight, resumed = (
        run(make_campaign(folder, *edits), reopen=i == 1) for i, folder in enumerate(folders)
    )
    assert len(straight) == 22
    assert straight == resumed
    with Study.read(folders[0] / "runs" / "demo.evomerge") as study:
        own = [t.candidate for t in study.trials() if t.candidate.origin == "margin"]
        assert len(own) == 18


def test_forecasts_are_set_right_by_what_came_of_the_proposals_of_auto(
    tmp_path: Path, make_campaign: Callable[..., Path]
) -> None:
    run(make_campaign(tmp_path, ("sampler: random", "sampler: auto")), reopen=False)
    with Study.read(tmp_path / "runs" / "demo.evomerge") as study:
        record = foresee(study).knowledge.track_record
        assert (np.abs(record.factors - 1) > 1e-3).all()


def test_items_are_turned_into_losses(tmp_path: Path, make_campaign: Callable[..., Path]) -> None:
    """Goal a is maximised: its items and margins change their signs; b's do not."""
    with Study.open(make_campaign(tmp_path)) as study:
        for candidate in study.ask(4):
            study.tell(candidate, measured(candidate))
        study.ask()
        log = study._asking._log
        assert log is not None
        seen = next(e for e in log.events() if isinstance(e, Observation))
        assert seen.read_items is not None
        a, b = seen.read_items()
        told = [study.scores(seen.number, "search", metric) for metric in ("a", "b")]
        assert a.losses.tolist() == [-x for x in told[0].items]
        assert a.margins is not None and b.margins is not None
        assert a.margins.tolist() == [-x for x in told[0].margins or ()]
        assert b.margins.tolist() == list(told[1].margins or ())
        assert seen.standard_errors == pytest.approx([t.standard_error for t in told])


def test_parameters_know_where_they_act(tmp_path: Path, make_campaign: Callable[..., Path]) -> None:
    with Study.open(make_campaign(tmp_path)) as study:
        places = [p.coordinate for p in study.recipe.space.parameters]
        assert [(p.model, p.field) for p in places if p is not None] == [
            ("math", "weight"),
            ("math", "density"),
            ("code", "weight"),
            ("code", "density"),
        ]
        assert {(p.depth, p.kind) for p in places if p is not None} == {(None, "mlp")}
