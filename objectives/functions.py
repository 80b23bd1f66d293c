"""Functions of the user by name: ``file.py:name`` or ``package.module:name``."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

from evomerge.errors import UsageError
from evomerge.registry import unknown


def split_reference(reference: str, folder: Path) -> tuple[Path | str, str]:
    """A reference's file (absolute) or dotted module, and the name inside it.

    Args:
        reference: ``file.py:name``, relative to `folder`, or ``package.module:name``.
        folder: of the campaign file.

    Raises:
        UsageError: if it is neither.
    """
    home, colon, name = reference.rpartition(":")
    if not colon or not home or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(
            f"{reference!r} names no function; file.py:name or package.module:name is wanted"
        )
    if home.endswith(".py"):
        return (folder / Path(home).expanduser()).resolve(), name
    if not all(part.isidentifier() for part in home.split(".")):
        raise UsageError(f"{reference!r}: {home!r} is neither a .py file nor a dotted module name")
    return home, name


def check_reference(reference: str, folder: Path) -> None:
    """Look for the file and the name in it without running anything.

    Raises:
        UsageError: if the file is missing, is not Python, or does not define the name. A dotted
            module is only looked at when it is loaded.
    """
    home, name = split_reference(reference, folder)
    if isinstance(home, str):
        return
    first = name.split(".")[0]
    defined = set(_defined(_parsed(home).body))
    if first not in defined and "*" not in defined and "__getattr__" not in defined:
        raise UsageError(unknown("function", first, defined), place=str(home))


def load_function(reference: str, folder: Path) -> Any:
    """Import what a reference names; a file is run once per process.

    The file's folder, or the campaign's for a dotted module, is put at the end of ``sys.path``,
    so that it may import its neighbours but never hides an installed package.

    Raises:
        UsageError: if it cannot be found or imported.
    """
    check_reference(reference, folder)
    home, name = split_reference(reference, folder)
    place = str(home)
    try:
        found: Any = _file_module(home) if isinstance(home, Path) else _module(home, folder)
    except UsageError:
        raise
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise UsageError(f"it cannot be imported: {cause}", place=place) from error
    for part in name.split("."):
        if not hasattr(found, part):
            public = [word for word in vars(found) if not word.startswith("_")]
            raise UsageError(unknown("function", part, public), place=place)
        found = getattr(found, part)
    return found


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        cause = f"the function's file cannot be read: {error.strerror or error}"
        raise UsageError(cause, place=str(path)) from error
    except SyntaxError as error:
        raise UsageError(
            f"not valid Python: {error.msg}", place=f"{path}:{error.lineno}"
        ) from error
    except ValueError as error:
        raise UsageError(f"not valid Python: {error}", place=str(path)) from error


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """Names bound at the top of a module, also under if, try and with; ``*`` for a star import."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        else:
            yield from (
                inner.id
                for inner in ast.walk(node)
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
            )
            yield from _defined(
                [inner for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt)]
            )
            for handler in getattr(node, "handlers", ()):
                yield from _defined(handler.body)


def _append_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _module(dotted: str, folder: Path) -> ModuleType:
    _append_to_path(folder.resolve())
    return importlib.import_module(dotted)


def _file_module(path: Path) -> ModuleType:
    digest = blake2b(str(path).encode(), digest_size=8).hexdigest()
    name = f"evomerge_user_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("not a Python file", place=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as dataclasses and pickle expect
    _append_to_path(path.parent)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
