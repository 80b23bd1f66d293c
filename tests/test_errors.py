"""The error tree and its exit codes."""

from __future__ import annotations

import pytest

from evomerge import errors


def test_an_error_says_place_cause_what_was_kept_and_what_to_type() -> None:
    error = errors.CampaignError(
        "density is 2",
        place="c.yaml:3:5",
        kept="nothing was started",
        command="evomerge check c.yaml",
    )
    assert str(error) == (
        "c.yaml:3:5: density is 2\nnothing was started; next: evomerge check c.yaml"
    )


def test_a_bare_error_is_one_line() -> None:
    assert str(errors.StudyError("no")) == "no"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("EvomergeError", 1),
        ("UsageError", 2),
        ("CampaignError", 2),
        ("PluginError", 2),
        ("CheckpointError", 3),
        ("StudyError", 4),
        ("StudyLockedError", 4),
        ("DiskFullError", 4),
        ("ObjectiveError", 5),
        ("InfeasibleError", 6),
        ("StoppedError", 75),
    ],
)
def test_every_class_has_its_exit_code(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_the_tree_in_the_docstring_names_every_class() -> None:
    drawn = errors.__doc__ or ""
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.EvomergeError):
            assert f" {name} " in f" {drawn} ", name
