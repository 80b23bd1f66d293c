"""Programs as objectives: what they are given, what they answer, and how they go wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from evomerge.errors import ObjectiveError, UsageError
from evomerge.objectives import program
from evomerge.objectives.command import CommandObjective
from evomerge.objectives.registry import make
from evomerge.objectives.subject import Written
from evomerge.trial import InvalidScoresError, Scores

COEFFICIENTS = {"math/**/weight": 0.5}


def objective(folder: Path, code: str, **options: Any) -> CommandObjective:
    """One that runs `code` with the input file as its first argument."""
    (folder / "judge.py").write_text("import json, os, sys\n" + code)
    words = ["{python}", "judge.py", "{input}", "{output}", "{folder}"]
    made = make("command", {"command": words, "items": 3, **options}, folder=folder)
    assert isinstance(made, CommandObjective)
    return made


def answer(made: CommandObjective, folder: Path, items: Any = (2, 0)) -> Any:
    return made.evaluate(Written(folder, COEFFICIENTS), items)


def test_it_is_given_folder_coefficients_and_items(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"a": 1}\n"two"\n3\n')
    code = (
        "given = json.load(open(sys.argv[1]))\n"
        "json.dump([given, sys.argv[3], os.getcwd()], open('seen.json', 'w'))\n"
        "assert os.environ['EVOMERGE_INPUT'] == sys.argv[1]\n"
        "print('noise')\nprint(json.dumps([1.0, 2]))\n"
    )
    made = objective(tmp_path, code, items="items.jsonl")
    assert made.needs == "candidate" and made.count == 3
    assert answer(made, tmp_path / "merge") == Scores((1.0, 2.0))
    given, folder, place = json.loads((tmp_path / "seen.json").read_text())
    assert given == {
        "folder": str(tmp_path / "merge"),
        "coefficients": COEFFICIENTS,
        "indices": [2, 0],
        "items": [3, {"a": 1}],
    }
    assert folder == str(tmp_path / "merge") and Path(place) == tmp_path


def test_coefficients_alone(tmp_path: Path) -> None:
    code = "given = json.load(open(sys.argv[1])); print(given['coefficients']['math/**/weight'])"
    made = objective(tmp_path, code, needs="coefficients", items=None)
    assert made.evaluate(COEFFICIENTS, None) == Scores((0.5,))


ANSWERS: Mapping[str, tuple[str, Any]] = {
    "pretty": ("print(json.dumps([1, 0], indent=2))", Scores((1.0, 0.0))),
    "margins": (
        'print(\'{"items": [1, 0], "margins": [0.5, -2], "rates": {"invalid": 0.5}}\')',
        Scores((1.0, 0.0), (0.5, -2.0), {"invalid": 0.5}),
    ),
    "several": (
        'print(\'{"a": [1, 0], "b": {"items": [3, 4]}}\')',
        {"a": Scores((1.0, 0.0)), "b": Scores((3.0, 4.0))},
    ),
    "a file": (
        "print('[9, 9]'); json.dump([1, 0], open(sys.argv[2], 'w'))",
        Scores((1.0, 0.0)),
    ),
}


@pytest.mark.parametrize(("code", "wanted"), ANSWERS.values(), ids=ANSWERS)
def test_what_it_answers(code: str, wanted: Any, tmp_path: Path) -> None:
    assert answer(objective(tmp_path, code), tmp_path) == wanted


GARBAGE: Mapping[str, tuple[str, str]] = {
    "nothing": ("", "printed no JSON"),
    "words": ("print('done')", "printed no JSON: .*'done'"),
    "nan": ("print('[NaN, 1]')", "NaN is not JSON"),
    "twice": ('print(\'{"a": [1, 2], "a": [1, 2]}\')', "occurs twice"),
    "too few": ("print('[1]')", "2 wanted"),
    "an empty file": ("open(sys.argv[2], 'w'); print('[1, 2]')", "wrote no JSON"),
}


@pytest.mark.parametrize(("code", "words"), GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_invalid(code: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidScoresError, match=words):
        answer(objective(tmp_path, code), tmp_path)


FAILURES: Mapping[str, tuple[str, str]] = {
    "a status": ("sys.exit('no such model')", "ended with status 1: no such model"),
    "an exception": ("1 / 0", "ZeroDivisionError: division by zero"),
    "a signal": ("os.kill(os.getpid(), 11)", "was killed by SIGSEGV"),
    "memory": ("os.kill(os.getpid(), 9)", "SIGKILL, perhaps for want of memory"),
}


@pytest.mark.parametrize(("code", "words"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_said_in_one_line(code: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match=words):
        answer(objective(tmp_path, code), tmp_path)


def test_out_of_time_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Children in its group end too, even those that hear no SIGTERM."""
    code = (
        "import signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "open('pids', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "time.sleep(600)\n"
    )
    made = objective(tmp_path, code, timeout=500)
    monkeypatch.setattr(program, "_GRACE", 0.1)
    clock = time.monotonic
    late = tmp_path / "pids"  # the clock jumps once the children are there
    monkeypatch.setattr(program.time, "monotonic", lambda: clock() + 1000 * bool(_text(late)))
    with pytest.raises(ObjectiveError, match="longer than its limit of 500 s"):
        answer(made, tmp_path)
    monkeypatch.undo()
    _all_end(tmp_path / "pids")


def test_what_it_leaves_in_its_group_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "open('pids', 'w').write(str(child.pid))\n"
        "print('[1, 2]')\n"
    )
    assert answer(objective(tmp_path, code), tmp_path) == Scores((1.0, 2.0))
    _all_end(tmp_path / "pids")


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _all_end(pids: Path) -> None:
    """Within a generous time, for init reaps them in its own."""
    until = time.monotonic() + 30
    for pid in map(int, pids.read_text().split()):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_too_much_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MOST_OUTPUT", 1 << 16)
    with pytest.raises(ObjectiveError, match="printed more than"):
        answer(objective(tmp_path, "while True: print('x' * 1000)"), tmp_path)


def test_its_environment_is_ours_and_what_the_campaign_adds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_OUTSIDE", "1")
    code = "print(json.dumps([float(os.environ[n]) for n in ('FROM_OUTSIDE', 'FROM_FILE')]))"
    made = objective(tmp_path, code, env={"FROM_FILE": "2"})
    assert answer(made, tmp_path) == Scores((1.0, 2.0))


BAD: Mapping[str, tuple[dict[str, Any], str]] = {
    "no command": ({"command": None}, "a list of words is wanted"),
    "empty": ({"command": []}, "a list of words is wanted"),
    "quotes": ({"command": "a 'b"}, "No closing quotation"),
    "no program": ({"command": "no-such-program -x"}, "no program 'no-such-program'"),
    "needs": ({"command": "true", "needs": "model"}, "candidate, coefficients"),
    "timeout": ({"command": "true", "timeout": 0}, "positive number of seconds"),
    "env": ({"command": "true", "env": {"A": 1}}, "numbers stand in quotes"),
    "option": ({"command": "true", "time": 3}, "did you mean 'timeout'"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_what_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        make("command", options, folder=tmp_path)


def test_a_program_beside_the_campaign_file(tmp_path: Path) -> None:
    script = tmp_path / "judge.sh"
    script.write_text("#!/bin/sh\necho '[1, 2]'\n")
    script.chmod(0o755)
    made = make("command", {"command": "./judge.sh", "items": 2}, folder=tmp_path)
    assert made.evaluate(Written(tmp_path, {}), [0, 1]) == Scores((1.0, 2.0))
