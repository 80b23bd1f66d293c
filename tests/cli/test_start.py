"""The command line starts without the libraries that take seconds.

How long it takes is measured by ``python experiments/startup/startup.py``.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import World

HEAVY = {"torch", "transformers", "optuna", "nevergrad", "scipy", "pandas", "sqlalchemy"}
SCRIPT = """
import json, sys
from evomerge.cli.app import run
code = run(sys.argv[1:])
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "--version",
        "status campaign.yaml",
        "status study --json",
        "front campaign.yaml",
        "verify campaign.yaml",
        "tell campaign.yaml 0 near=1 small=1",
        "report campaign.yaml",
        "plugins",
    ],
)
def test_it_imports_nothing_heavy(world: World, words: str) -> None:
    assert world.run("ask", "campaign.yaml").code == 0
    process = world.start_python([sys.executable, "-c", SCRIPT, *words.split()])
    out, err = process.communicate(timeout=60)
    code, modules = json.loads(out.splitlines()[-1])
    assert code == 0, err
    assert not HEAVY & set(modules)


def test_a_run_plan_and_the_package_import_no_torch(world: World) -> None:
    for script in (
        "import evomerge",
        "import evomerge.study.study, evomerge.recipe.campaign, evomerge.cli.app",
        "from evomerge.cli.app import run; assert run(['run', 'campaign.yaml', '--dry-run']) == 0",
    ):
        process = world.start_python(
            [sys.executable, "-c", f"{script}\nimport sys\nassert 'torch' not in sys.modules"]
        )
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
