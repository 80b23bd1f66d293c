"""Imports point one way, and light commands stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evomerge

ROOT = Path(__file__).parents[2]

# The rooms of each level; a module imports from its own level or below.
LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"_version", "errors", "faults", "randomness", "registry"}),
    frozenset({"space", "goals", "pareto", "trial", "interfaces", "coefficients", "checkpoint"}),
    frozenset({"merging", "recipe"}),
    frozenset({"search", "surrogates", "objectives"}),
    frozenset({"study", "export", "report", "statistics"}),
    frozenset({"cli", "demo", "serve", "__main__"}),
)
TORCH_ROOMS = {"checkpoint", "merging", "objectives", "demo", "serve"}
OPTUNA_ROOMS = {"search", "study"}


def modules() -> Iterator[tuple[str, str, Path]]:
    """(dotted name, room, file) of every module of the package."""
    for folder, prefix in (
        (ROOT / "evomerge", ()),
        (ROOT / "objectives", ("objectives",)),
        (ROOT / "surrogates", ("surrogates",)),
    ):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if prefix or parts[0] not in ("objectives", "surrogates"):
                names = (*prefix, *parts)
                yield ".".join(("evomerge", *names)), names[0], path


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at its top or inside functions, not for typing only."""
    tree = ast.parse(path.read_text("utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def level(room: str) -> int:
    """The level of a room; an unplanned room fails the test that asks."""
    return next(i for i, rooms in enumerate(LEVELS) if room in rooms)


MODULES = list(modules())


@pytest.mark.parametrize(("name", "room", "path"), MODULES, ids=[m[0] for m in MODULES])
def test_a_module_imports_from_its_own_level_or_below(name: str, room: str, path: Path) -> None:
    if name == "evomerge.__init__":
        return
    for target in imported(path):
        if target.startswith("evomerge."):
            other = target.split(".")[1]
            assert level(other) <= level(room), f"{name} imports {target}"
        assert target.split(".")[0] not in {"objectives", "surrogates"}, f"{name}: bare {target}"


@pytest.mark.parametrize(("name", "room", "path"), MODULES, ids=[m[0] for m in MODULES])
def test_heavy_libraries_stay_in_their_rooms(name: str, room: str, path: Path) -> None:
    roots = {target.split(".")[0] for target in imported(path)}
    if room not in TORCH_ROOMS and room != "randomness":
        assert "torch" not in roots, name
    if room not in OPTUNA_ROOMS:
        assert "optuna" not in roots, name
    if room != "search":
        assert "nevergrad" not in roots, name


def test_package_inits_hold_a_docstring_and_nothing_else() -> None:
    for name, _, path in MODULES:
        if path.name == "__init__.py" and name != "evomerge.__init__":
            body = ast.parse(path.read_text("utf-8")).body
            assert isinstance(body[0], ast.Expr), name
            rest = body[1:]
            if path.parent.name in ("objectives", "surrogates"):
                rest = rest[1:]  # the refusal of the bare name
            assert rest == [], name


def heavy_modules_after(code: str) -> str:
    heavy = {"torch", "optuna", "nevergrad", "transformers"}
    script = f"import sys\n{code}\nprint(sorted({heavy!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return run.stdout.strip().splitlines()[-1]


def test_importing_evomerge_loads_nothing_heavy() -> None:
    assert heavy_modules_after("import evomerge") == "[]"


def test_the_help_of_every_command_loads_nothing_heavy() -> None:
    code = (
        "from click.testing import CliRunner\nfrom evomerge.cli.app import cli\n"
        "for name in [None, *cli.commands_by_name()]:\n"
        "    result = CliRunner().invoke(cli, [*([name] if name else []), '--help'])\n"
        "    assert result.exit_code == 0, (name, result.output)"
    )
    assert heavy_modules_after(code) == "[]"


@pytest.mark.parametrize("name", ["objectives", "surrogates"])
def test_the_bare_name_of_a_top_folder_is_refused(name: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"import {name}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert f"import evomerge.{name}" in run.stderr


def test_exported_names_are_sorted_and_all_there() -> None:
    names = [name for name in evomerge.__all__ if name != "__version__"]
    assert names == sorted(names)
    for name in names:
        assert getattr(evomerge, name).__module__.startswith("evomerge.")
