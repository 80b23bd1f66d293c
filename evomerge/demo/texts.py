"""Text that every machine with Python has: the standard library's code, comments, documentation.

Every passage belongs to a document (a module, a topic of the language reference), and documents
are held out as a whole, so that items are made of text that no model was trained on.
"""

from __future__ import annotations

import ast
import importlib
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evomerge.randomness import derived_seed

HELD_OUT = 6
"""One document in this many is held out."""

LARGEST_MODULE = 150_000
"""Bytes; the few that are larger take longest to parse, and there is text enough."""

SHORTEST_PARAGRAPH = 80
SHORTEST_COMMENT = 40
"""Characters; shorter ones are mostly headings and remarks of one word."""

_MARKUP = re.compile(r">>>|[{}=\[\]_]")
_SEPARATE = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Passage:
    """A stretch of printable ASCII and the document that it stands in."""

    document: str
    text: str

    @property
    def held_out(self) -> bool:
        """Whether items are made of it, rather than models trained on it; the name decides."""
        return derived_seed(0, "demo", "held out", self.document) % HELD_OUT == 0


@dataclass(frozen=True)
class Module:
    """One module of the standard library, taken apart.

    Attributes:
        code: without comments and docstrings, in one layout.
    """

    name: str
    code: str
    comments: tuple[str, ...]
    docstrings: tuple[str, ...]


@cache
def code() -> tuple[Passage, ...]:
    """Modules without comments and docstrings."""
    return tuple(Passage(module.name, module.code) for module in modules())


@cache
def comments() -> tuple[Passage, ...]:
    """Comments of the same modules, neighbouring lines joined."""
    return tuple(
        Passage(module.name, text)
        for module in modules()
        for text in module.comments
        if len(text) >= SHORTEST_COMMENT
    )


@cache
def prose() -> tuple[Passage, ...]:
    """Paragraphs of docstrings and of the language reference: whole sentences, little markup."""
    documents = [(module.name, text) for module in modules() for text in module.docstrings]
    paragraphs = (
        Passage(name, _one_line(part))
        for name, text in [*documents, *_topics()]
        for part in text.split("\n\n")
    )
    return tuple(dict.fromkeys(p for p in paragraphs if _is_prose(p.text)))


@cache
def modules() -> tuple[Module, ...]:
    """The modules at the top of the standard library, by name; not what describes the machine."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    fit = (path for path in paths if path.stat().st_size <= LARGEST_MODULE)
    read = (_module(path) for path in fit if not path.stem.startswith("_sysconfigdata"))
    return tuple(module for module in read if module is not None)


def _module(path: Path) -> Module | None:
    source = path.read_text("utf-8", errors="replace")
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a distributor's template, say
        return None
    docstrings = tuple(_take_docstrings(tree))
    return Module(path.stem, _plain(ast.unparse(tree)), tuple(_comments(source)), docstrings)


def _take_docstrings(tree: ast.Module) -> Iterator[str]:
    """Docstrings; they are no longer in the tree after that."""
    for node in ast.walk(tree):
        if isinstance(node, _SEPARATE) and (text := ast.get_docstring(node)) is not None:
            node.body = node.body[1:] or [ast.Pass()]
            yield text


def _topics() -> list[tuple[str, str]]:
    """The language reference as ``help()`` has it; some distributors leave it out."""
    try:
        module = importlib.import_module("pydoc_data.topics")
    except ImportError:
        return []
    return sorted(module.topics.items())


def _comments(source: str) -> Iterator[str]:
    block: list[str] = []
    for line in [*source.split("\n"), ""]:
        stripped = line.strip()
        if stripped.startswith("#"):
            block.append(stripped.lstrip("# "))
        elif block:
            yield _one_line(" ".join(block))
            block = []


def _is_prose(text: str) -> bool:
    whole = len(text) >= SHORTEST_PARAGRAPH and text[0].isupper() and text.endswith(".")
    return whole and not _MARKUP.search(text)


def _one_line(text: str) -> str:
    return " ".join(_plain(text).split())


def _plain(text: str) -> str:
    """Printable ASCII and line ends; everything else is left out."""
    return "".join(letter for letter in text if " " <= letter <= "~" or letter == "\n")
