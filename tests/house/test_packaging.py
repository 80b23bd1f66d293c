"""What is packaged is what is in the tree, and what is imported is declared."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FOLDERS = ("evomerge", "objectives", "surrogates")
IMPORT_NAMES = {"lm-eval": "lm_eval", "PyYAML": "yaml", "optuna-dashboard": "optuna_dashboard"}


def modules_in_the_tree() -> set[str]:
    """Files as the wheel should name them."""
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            inside = path.relative_to(ROOT / folder)
            linked = folder == "evomerge" and inside.parts[:1] in (("objectives",), ("surrogates",))
            if path.suffix in (".py", ".typed") and not linked:
                prefix = "evomerge" if folder == "evomerge" else f"evomerge/{folder}"
                found.add(f"{prefix}/{inside.as_posix()}")
    return found


def build(source: Path, out: Path, kind: str) -> Path:
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out)]
    run = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return next(out.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source") / "evomerge"
    copy.mkdir()
    for name in (*FOLDERS, "pyproject.toml", "setup.py", "README.md", "LICENSE"):
        origin = ROOT / name
        if origin.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(origin, copy / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(origin, copy / name)
    return copy


@pytest.mark.slow
def test_the_wheel_holds_the_tree_and_so_does_the_sdist_made_into_a_wheel(
    source: Path, tmp_path: Path
) -> None:
    direct = build(source, tmp_path / "direct", "wheel")
    sdist = build(source, tmp_path / "sdist", "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    unpacked = next((tmp_path / "unpacked").iterdir())
    for wheel in (direct, build(unpacked, tmp_path / "second", "wheel")):
        names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name}
        assert names == modules_in_the_tree()


def test_a_checkout_without_symlinks_builds_the_same_wheel(source: Path, tmp_path: Path) -> None:
    """git on Windows and zip archives leave a small text file where the link was."""
    plain = tmp_path / "plain"
    shutil.copytree(source, plain, symlinks=True)
    for name in ("objectives", "surrogates"):
        (plain / "evomerge" / name).unlink()
        (plain / "evomerge" / name).write_text(f"../{name}")
    wheel = build(plain, tmp_path / "wheel", "wheel")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name}
    assert names == modules_in_the_tree()


def test_every_package_is_listed() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    found = {
        str(Path(name).parent).replace("/", ".")
        for name in modules_in_the_tree()
        if name.endswith("__init__.py")
    }
    assert listed == found


def module_names(requirements: list[str]) -> set[str]:
    names = [re.split(r"[<>=!\[; ]", line)[0] for line in requirements]
    return {IMPORT_NAMES.get(name, name).lower() for name in names}


def test_what_a_module_imports_at_its_top_is_a_core_dependency() -> None:
    """An extra may only be imported inside a function, where its absence can be explained."""
    core = module_names(PROJECT["project"]["dependencies"])
    extras = module_names(
        [r for rs in PROJECT["project"]["optional-dependencies"].values() for r in rs]
    )
    for name in modules_in_the_tree():
        if not name.endswith(".py"):
            continue
        path = ROOT / re.sub(r"^evomerge/(objectives|surrogates)/", r"\1/", name)
        tree = ast.parse(path.read_text("utf-8"))
        top = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                roots = {node.module.split(".")[0]}
            else:
                continue
            foreign = roots - set(sys.stdlib_module_names) - {"evomerge"}
            allowed = core if id(node) in top else core | extras | {"tokenizers"}
            if name == "evomerge/merging/cuda_kernels.py":
                allowed = allowed | {
                    "triton"
                }  # with torch's CUDA builds; only `cuda.kernels` imports this
            assert {root.lower() for root in foreign} <= allowed, f"{name}: {foreign}"


def test_no_version_is_pinned() -> None:
    for line in PROJECT["project"]["dependencies"]:
        assert "==" not in line and "<" not in line, line
