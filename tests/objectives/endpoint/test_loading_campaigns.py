"""`evomerge run` against servers that load each merge from its folder: killed, resumed, right."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import app
from evomerge.study.study import Study
from evomerge.trial import TrialState
from tests.conftest import Loopback, served
from tests.objectives.endpoint.loading_server import Server
from tests.objectives.endpoint.openai_server import FolderServer
from tests.objectives.endpoint.world import World

ITEMS = [{"prompt": f"{i}+1=", "choices": [str(i + 1), "no"], "answer": i % 2} for i in range(6)]
TESTED = 3 * 4 * 2
"""What the self-test asks: base, mix and base, the two choices of the four items searched on."""


class Recorded:
    """A server that says what it was asked, and hangs at one question.

    Attributes:
        asked: prompt and merge of each question.
        fatal: number of the question, from 1, that is never answered.
    """

    def __init__(self, answer: Callable[[Any, str], Any], fatal: int = 0) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str]] = []
        self.fatal = fatal
        self.reached, self.over = threading.Event(), threading.Event()

    def __call__(self, body: Any, path: str) -> Any:
        if path.endswith("/completions"):
            name = body.get("cache_salt") or Path(body["model"]).name
            self.asked.append((body["prompt"], name))
            if len(self.asked) == self.fatal:
                self.reached.set()
                self.over.wait()
        return self.answer(body, path)


def check(study: Study) -> None:
    """Both trials are done, the server's values are the local ones, and no merge lies about."""
    done = study.trials(state=TrialState.DONE)
    assert len(done) == 2
    for trial in done:
        for by_metric in trial.results.values():
            assert by_metric["skill"].mean == pytest.approx(by_metric["home"].mean, abs=1e-4)
    assert not list(study.folder.rglob("*.safetensors"))


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_campaign_of_reloaded_weights_is_killed_resumed_and_right(
    kind: str, make_folder: Callable[..., Path], write_items: Callable[..., Path]
) -> None:
    """By SIGKILL in the second trial; the base is loaded twice in a row, as equal merges are."""
    world = World(make_folder())
    answer = Server(world)
    recorded = Recorded(answer, fatal=TESTED + 8 + 3)
    with served(Loopback(recorded)) as server:
        said = f'type: {kind}, model: base, url: "{server.url}", load: checkpoint'
        campaign = world.campaign(write_items(*ITEMS), f"{said}, metrics: probability", home=True)
        command = [sys.executable, "-m", "evomerge", "run", str(campaign)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            while not recorded.reached.wait(0.1):
                assert run.poll() is None, "it ended before it got there"
            assert list((campaign.parent / "study").rglob("*.safetensors")), "of that trial"
            run.kill()
        answer.held = 2  # the question that nobody waits for any more holds the cache for a while
        assert app.run(["run", str(campaign)]) == 0
        recorded.over.set()
    with Study.read(campaign) as study:
        check(study)
    first, second = recorded.asked[: recorded.fatal], recorded.asked[recorded.fatal :]
    paid, paid_later = first[TESTED:], second[TESTED:]
    assert set(paid) & set(paid_later) == {first[-1]}, "it was never answered"
    assert len(paid_later) == len(set(paid_later))


def test_a_campaign_of_folders_named_as_models_is_right(
    make_folder: Callable[..., Path], write_items: Callable[..., Path]
) -> None:
    world = World(make_folder())
    recorded = Recorded(FolderServer())
    with served(Loopback(recorded)) as server:
        said = f'type: openai, model: "{{folder}}", url: "{server.url}"'
        campaign = world.campaign(write_items(*ITEMS), f"{said}, metrics: probability", home=True)
        assert app.run(["run", str(campaign)]) == 0
    with Study.read(campaign) as study:
        check(study)
    assert {name[:4] for _, name in recorded.asked} == {"evm-"}
    paid = recorded.asked[TESTED:]
    assert len(paid) == len(set(paid))
