"""Plug-ins by name."""

from __future__ import annotations

import pytest

from evomerge.errors import PluginError
from evomerge.registry import Registry

TABLE = Registry(
    "sampler", {"sobol": "math:sqrt", "broken": "no_such_module:x", "old": "math:gone"}
)


def test_a_name_is_imported_when_it_is_loaded() -> None:
    assert TABLE.load("sobol")(9) == 3


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(PluginError, match=r"no sampler 'sobel'; did you mean 'sobol'\? known: "):
        TABLE.load("sobel")


@pytest.mark.parametrize("name", ["broken", "old"])
def test_a_plugin_that_cannot_be_loaded_says_where_it_lives(name: str) -> None:
    with pytest.raises(PluginError, match=f"'{name}' .*cannot be loaded"):
        TABLE.load(name)


def test_the_error_is_a_lookup_error_whose_text_is_plain() -> None:
    with pytest.raises(LookupError) as caught:
        TABLE.load("nothing-like-it")
    assert str(caught.value) == "no sampler 'nothing-like-it'; known: broken, old, sobol"
