"""What reading plans and fields needs."""

from __future__ import annotations

import subprocess
import sys


def test_fields_and_plans_are_read_without_torch() -> None:
    """Status and front must start fast, and they need both."""
    code = (
        "import sys; from evomerge.merging.plan import MergePlan; "
        "from evomerge.merging.registry import METHODS; "
        "[METHODS.load(name).fields for name in METHODS.own]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
