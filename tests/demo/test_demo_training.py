"""Trainings of the demo: repeatable bit for bit, and they learn."""

from __future__ import annotations

import pytest
import torch

from evomerge.demo import training
from evomerge.demo.skills import SKILLS
from evomerge.demo.training import Course
from evomerge.objectives.llama import Llama, initialise


def fresh() -> Llama:
    model = Llama(training.SHAPE)
    initialise(model, torch.Generator().manual_seed(0))
    return model


def trained(course: Course, streams: dict[str, torch.Tensor]) -> tuple[Llama, list[str]]:
    model, told = fresh(), list[str]()
    rng = torch.Generator().manual_seed(1)
    training.train(model, course, streams, rng, told.append)
    return model, told


def same(one: Llama, other: Llama) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


STREAMS = {"text": torch.tensor(list(b"abcdefgh" * 40))}


@pytest.mark.parametrize("muon", [False, True])
def test_a_text_that_repeats_is_learnt(muon: bool) -> None:
    _, told = trained(Course({"text": 4}, steps=60, rate=6e-3, muon=muon), STREAMS)
    losses = [float(line.rpartition(" ")[2]) for line in told]
    assert len(losses) == training.REPORTS
    assert losses[-1] < 0.5 < losses[0]


def test_the_same_seed_gives_the_same_bits() -> None:
    course = Course({"text": 4}, steps=4, rate=6e-3, muon=True, parts=2)
    assert same(trained(course, STREAMS)[0], trained(course, STREAMS)[0])


def test_parts_share_a_batch_without_changing_what_is_learnt() -> None:
    whole, parts = (
        trained(Course({"text": 4}, steps=1, rate=1e-3, parts=n), STREAMS)[0] for n in (1, 2)
    )
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=5e-5, rtol=1e-3)


def test_the_rate_rises_and_falls() -> None:
    course = Course({}, steps=100, rate=1.0, last=0.1)
    rates = [training._rate(course, step) for step in range(100)]
    assert rates[0] == pytest.approx(1 / training.WARM_UP)
    assert max(rates) == rates[training.WARM_UP - 1]
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_every_skill_has_a_course_that_teaches_it() -> None:
    assert set(training.SPECIALISTS) == {skill.name for skill in SKILLS}
    assert all(name in course.rows for name, course in training.SPECIALISTS.items())


@pytest.mark.usefixtures("short_courses")
def test_specialists_start_from_the_base_and_leave_it_alone() -> None:
    threads = torch.get_num_threads()
    base = training.train_base(0, lambda line: None)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    specialists = training.train_specialists(base, 0, lambda line: None)
    assert list(specialists) == [skill.name for skill in SKILLS]
    assert not any(same(base, one) for one in specialists.values())
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    again = training.train_specialists(base, 0, lambda line: None)
    assert all(same(specialists[name], again[name]) for name in again)
    assert torch.get_num_threads() == threads
