"""A campaign by coefficients alone: nobody who runs it has the weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.objectives.jsonl import JsonlObjective
from evomerge.objectives.models import load_model
from evomerge.study.study import Study
from evomerge.trial import Scores
from tests.serve.conftest import KEY, Server, command_line, serving, write_pool

EIGHT = tuple(f"a{number}" for number in range(8))
CHOICES = [
    {"prompt": f"{a}+{b}=", "choices": [str(a + b), str(a + b + 1), "no"], "answer": 0}
    for a in range(4)
    for b in range(4)
]
ANSWERS = [{"prompt": f"say {word}", "answer": word} for word in ("a", "bc", "def", "x y")] * 3
METRICS = {"sums": "accuracy", "words": "exact_match"}
CAMPAIGN = """
goals:
  - {{metric: sums, objective: {{type: evomerge_server, url: "{url}", api_key_env: POOL_KEY, items: sums.jsonl}}}}
  - {{metric: words, objective: {{type: evomerge_server, url: "{url}", api_key_env: POOL_KEY, items: words.jsonl, max_new_tokens: 24}}}}
sampler: random
budget: {{trials: 14, requests: 5000}}
study: study
export: {{to: merged}}
"""  # noqa: E501


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("eight"), EIGHT)


@pytest.fixture(scope="module")
def remote(eight: Path) -> Iterator[Server]:
    with serving(command_line(eight)) as running:
        yield running


def evomerge(folder: Path, *arguments: str) -> str:
    """Stdout of a command that succeeds."""
    done = subprocess.run(
        [sys.executable, "-m", "evomerge", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "POOL_KEY": KEY},
    )
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    return done.stdout


def test_what_queries_have_measured_is_what_the_owner_of_the_weights_writes(
    remote: Server, eight: Path, tmp_path: Path
) -> None:
    client, owner = tmp_path / "client", tmp_path / "owner"
    client.mkdir()
    evomerge(client, "init", remote.url, "--api-key-env", "POOL_KEY")
    frame = (client / "campaign.yaml").read_text().partition("# Each goal is")[0]
    (client / "campaign.yaml").write_text(frame + CAMPAIGN.format(url=remote.url))
    for name, items in (("sums", CHOICES), ("words", ANSWERS)):
        (client / f"{name}.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    evomerge(client, "check", "campaign.yaml")
    evomerge(client, "run", "campaign.yaml")
    assert (client / "merged" / "front.json").exists()
    evomerge(client, "export", "study", "picked", "--trial", "12")
    exported = client / "picked" / "study-12"
    evomerge(client, "verify", str(exported))
    shutil.copytree(eight, owner)
    shutil.copy(exported / "recipe.yaml", owner / "recipe.yaml")
    evomerge(owner, "merge", "recipe.yaml", "merge")
    model = load_model(owner / "merge", device="cpu")
    with Study.read(client / "study") as study:
        for metric in ("sums", "words"):
            options = {"items": f"{metric}.jsonl", "metrics": METRICS[metric]}
            objective = JsonlObjective(options, folder=client)
            local = objective.evaluate(model, study.items(metric, "search"))
            assert isinstance(local, Scores)
            remote_scores = study.scores(12, "search", metric)
            assert remote_scores.items == pytest.approx(local.items, abs=1e-4)
            if local.margins is not None:
                assert remote_scores.margins == pytest.approx(local.margins, abs=1e-4)
    for path in client.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
