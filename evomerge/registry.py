"""Plug-ins by name: a table of ``"module:attribute"`` strings, imported when first asked for.

A family (samplers, objectives, merge methods, ...) is one `Registry`. Its own members are in the
table; other distributions add theirs by an entry point in the group ``evomerge.<family>``.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.errors import PluginError


@dataclass(frozen=True)
class Registry:
    """The names of one family.

    Attributes:
        family: singular, as errors and entry points say it: ``sampler``, ``objective``, ``method``.
        own: name to ``"module:attribute"``.
    """

    family: str
    own: Mapping[str, str]

    def names(self) -> dict[str, str]:
        """Name to ``"module:attribute"``, own members first; nothing is imported.

        Raises:
            PluginError: if a distribution claims a name that is taken.
        """
        # Here, because this module is imported by commands that start in a blink.
        from importlib.metadata import entry_points

        table = dict(self.own)
        for point in entry_points(group=f"evomerge.{self.family}"):
            if point.name in table and table[point.name] != point.value:
                raise PluginError(
                    f"the {self.family} {point.name!r} is claimed by {table[point.name]} "
                    f"and by {point.value}; uninstall one of them"
                )
            table[point.name] = point.value
        return table

    def load(self, name: str) -> Any:
        """The attribute that a name stands for; the only place where a plug-in is imported.

        Raises:
            PluginError: if the name is unknown, or its module cannot be imported.
        """
        table = self.own if name in self.own else self.names()
        if name not in table:
            raise PluginError(unknown(self.family, name, table))
        module, _, attribute = table[name].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise PluginError(
                f"the {self.family} {name!r} ({table[name]}) cannot be loaded: {error}"
            ) from error


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that nothing has, with the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"no {kind} {name!r}{hint} known: {', '.join(known)}"
