"""Which accelerators there are, asked without torch: the coordinator never loads it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

_PATIENCE = 20.0  # seconds for nvidia-smi


def cuda_devices() -> tuple[str, ...]:
    """Names for CUDA_VISIBLE_DEVICES, one per worker; empty without a GPU.

    What the user's own CUDA_VISIBLE_DEVICES lists, else what ``nvidia-smi -L`` does: the parts of
    a GPU that is split (MIG), the whole of any other.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1"))
    command = shutil.which("nvidia-smi")
    return parse_listing(_output(command)) if command else ()


def parse_listing(listing: str) -> tuple[str, ...]:
    """The devices in what ``nvidia-smi -L`` prints."""
    names: list[str] = []
    for line in listing.splitlines():
        found = re.search(r"UUID:\s*((?:GPU|MIG)-[^)\s]+)", line)
        if not found:
            continue
        part = found[1].startswith("MIG")
        if part and names and names[-1].startswith("GPU"):
            names.pop()  # the split GPU itself
        names.append(found[1])
    return tuple(names)


def _output(command: str) -> str:
    try:
        done = subprocess.run(
            [command, "-L"], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
