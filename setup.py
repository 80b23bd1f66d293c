"""Tells setuptools where the two top-level folders are; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup

LINKED = ("objectives", "surrogates")
if all(Path("evomerge", name).is_dir() for name in LINKED):
    package_dir = {"": "."}
else:  # a checkout without symlinks: git on Windows, zip archives
    package_dir = {"evomerge": "evomerge"} | {f"evomerge.{name}": name for name in LINKED}
setup(package_dir=package_dir)
