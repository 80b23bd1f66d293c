"""What goes over the private connection comes out as it went in, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import StudyDamagedError
from evomerge.study.workers.messages import (
    Answer,
    Broken,
    Job,
    Ready,
    Setup,
    decode,
    encode,
    kept_answer,
)
from evomerge.trial import Evaluation, Outcome, Scores

numbers = st.floats(allow_nan=False, allow_infinity=False)


def job(folder: Path) -> Job:
    splits = {"selection": {"a": (3, 1, 2), "b": None}}
    return Job(7, "t", 2, folder, folder / "s", "sparse_signed", {"m/g/weight": 0.1}, splits)


def answer(**changes: object) -> Answer:
    doubts = {"invalid": 0.25}
    scores = {"a": Scores((0.1, -2.0), (5e-324, 1e308), doubts), "b": Scores((1 / 3,))}
    known = {"attempt": 7, "token": "t", "trial": 2, "outcome": Outcome.SUCCEEDED}
    known |= {"evaluations": {"search": Evaluation(scores, 1.5)}, "seconds": 2.25}
    return Answer(**known | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [
        Setup(Path("c.yaml"), "base: café\n", threads=2),
        Ready({"torch": "2.5"}),
        Broken("CheckpointError", "cut short", "models/a", None),
        answer(),
        answer(outcome=Outcome.FAILED, evaluations={}, reason="no\nway", discard=True),
        answer(broken=Broken("DiskFullError", "full"), evaluations={}),
        job(Path("attempts/7")),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_is_one_line_and_comes_out_as_it_went_in(message: object) -> None:
    line = encode(message)  # type: ignore[arg-type]
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == message


@given(items=st.lists(numbers, min_size=1), margins=st.none() | st.lists(numbers))
def test_scores_survive_to_the_bit(items: list[float], margins: list[float] | None) -> None:
    scores = Scores(tuple(items), None if margins is None else tuple(margins))
    sent = answer(evaluations={"test": Evaluation({"a": scores}, 0.0)})
    received = decode(encode(sent))
    assert isinstance(received, Answer)
    assert repr(received.evaluations["test"].scores["a"]) == repr(scores)


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b"null", b'{"kind":"answer"}', b"\xff", b"{"])
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(StudyDamagedError):
        decode(line)


def test_a_result_file_counts_only_for_its_own_attempt(tmp_path: Path) -> None:
    asked = job(tmp_path)
    assert kept_answer(asked) is None
    (tmp_path / "result.json").write_bytes(encode(answer()))
    assert kept_answer(asked) == answer()
    (tmp_path / "result.json").write_bytes(encode(answer(token="of another life")))
    assert kept_answer(asked) is None
    (tmp_path / "result.json").write_bytes(encode(answer())[:-20])
    assert kept_answer(asked) is None
