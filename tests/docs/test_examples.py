"""Every example in the documentation, run for real, page by page from top to bottom.

What marks an example, and what becomes of it, is in CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import EvomergeError
from evomerge.objectives.items import Line
from evomerge.objectives.jsonl_items import kind_of, parse
from evomerge.recipe.campaign import Campaign
from evomerge.recipe.merge_recipe import MergeRecipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?P<marks>[^\n`]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d[\d.:e+-]*|–")
EXIT_CODE = re.compile(r"# exit code (\d+)")
MOST_SECONDS = 120


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        kind: the first mark: ``yaml``, ``console``.
        use: the second, up to an equals sign: ``campaign``; empty where there is none.
        file: what stands behind the equals sign.
        line: of its first line in the page.
    """

    kind: str
    use: str
    file: str
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    for found in BLOCK.finditer(page):
        kind, _, mark = found["marks"].strip().partition(" ")
        use, _, file = mark.partition("=")
        yield Block(kind, use, file, found["text"], page.count("\n", 0, found.start()) + 1)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_the_examples_of_a_page_run(page: Path, example_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(example_folder, folder)
    for block in blocks(page.read_text("utf-8")):
        try:
            run(block, folder)
        except (AssertionError, EvomergeError, SyntaxError) as error:
            pytest.fail(f"{page.name}:{block.line}: {error}", pytrace=False)


def run(block: Block, folder: Path) -> None:
    """Carry one example out; a mark that is not known fails, so that nothing is left out."""
    match block.kind, block.use:
        case "yaml", "campaign":
            check_campaign(folder / (block.file or "example.yaml"), block.text)
        case "yaml", "part":
            whole = (ROOT / "tests" / "docs" / "whole.yaml").read_text("utf-8")
            check_campaign(folder / "part.yaml", overlaid(whole, block.text))
        case "yaml", "recipe":
            check_recipe(folder / (block.file or "recipe.yaml"), block.text)
        case "yaml", "task":
            (folder / block.file).parent.mkdir(exist_ok=True)
            (folder / block.file).write_text(block.text)
            check_task(folder / block.file)
        case "python", "file":
            compile(block.text, block.file, "exec")
            (folder / block.file).write_text(block.text)
        case "python", "":
            result = execute([sys.executable, "-W", "error", "-c", block.text], folder)
            assert result.returncode == 0, result.stderr
        case "jsonl", "":
            check_items(block.text)
        case "console", "":
            for command, shown in commands(block.text):
                check_command(command, shown, folder)
        case (("text" | "sh" | "toml"), ""):
            pass
        case _:
            raise AssertionError(f"no such example: {block.kind} {block.use}")


def check_campaign(path: Path, text: str) -> None:
    path.write_text(text)
    campaign = Campaign.load(path)
    with Checkpoint.open(campaign.recipe.base) as base:
        bound = campaign.recipe.bind(base.tensors)
    assert len(bound.space) > 0


def check_recipe(path: Path, text: str) -> None:
    path.write_text(text)
    recipe = MergeRecipe.load(path)
    with Checkpoint.open(recipe.recipe.base) as base:
        recipe.recipe.bind(base.tensors).plan(recipe.recipe.method, recipe.parameters)


def check_task(path: Path) -> None:
    """Load it as lm-eval does, and count its items."""
    code = (
        "from pathlib import Path; from evomerge.objectives.registry import make; "
        f"made = make('lm_eval', {{'task': {path.name!r}}}, folder=Path({str(path.parent)!r})); "
        "assert made.count"
    )
    result = execute([sys.executable, "-c", code], path.parents[1])
    assert result.returncode == 0, result.stderr


def overlaid(whole: str, part: str) -> str:
    """A campaign file in which the part's sections stand for those of the same name."""
    given = sections(part)
    return "".join({**sections(whole), **given}.values())


def sections(text: str) -> dict[str, str]:
    """Text by top-level key; comments before the first key are left out."""
    pieces = re.split(r"^(?=[a-z_]+:)", text, flags=re.MULTILINE)
    return {piece.partition(":")[0]: piece for piece in pieces if re.match(r"[a-z_]+:", piece)}


def check_items(text: str) -> None:
    for number, row in enumerate(text.splitlines(), start=1):
        line = Line(json.loads(row), f"line {number}")
        parse(line, kind_of(line))


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command with the lines that are shown below it."""
    for piece in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        first, *shown = piece.replace("\\\n", " ").splitlines()
        yield first, [line for line in shown if line.strip() not in ("", "...")]


def check_command(command: str, shown: list[str], folder: Path) -> None:
    """Run one; what is shown must be among what it prints; see `bare`."""
    found = EXIT_CODE.search(command)
    result = execute(["bash", "-c", f"{command}\nexit $?"], folder)
    said = (result.stdout + result.stderr).replace(f"{folder}/", "")
    assert result.returncode == (int(found[1]) if found else 0), f"{command}\n{said}"
    printed = {bare(line) for line in said.splitlines()}
    missing = [line for line in shown if bare(line) not in printed]
    assert not missing, f"{command}\ndoes not print: {missing}\nbut\n{said}"


def bare(line: str) -> str:
    """A line without its numbers, spaces and rules."""
    return re.sub(r"[\s─]+", " ", NUMBER.sub("#", line)).strip()


def execute(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run with this evomerge as the command, without anything else of this process's."""
    commands = folder.parent / "bin"
    commands.mkdir(exist_ok=True)
    script = commands / "evomerge"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m evomerge "$@"\n')
    script.chmod(0o755)
    path = os.pathsep.join((str(commands), str(Path(sys.executable).parent), os.environ["PATH"]))
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        stdin=subprocess.DEVNULL,
        check=False,
    )
