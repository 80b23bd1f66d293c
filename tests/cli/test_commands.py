"""Every command on a tiny real campaign, its rows as JSON, and every exit code reached for real."""

from __future__ import annotations

import csv
import json
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from conftest import World

NAP = 0.3
SLOW = f"""
import time


def near(parameters, items):
    time.sleep({NAP})
    return [-sum(parameters.values()) for _ in items]


def small(parameters, items):
    return [sum(parameters.values()) for _ in items]


near.needs = small.needs = "coefficients"
"""
MEASURED = {"mean": float, "standard_error": float, "items": int}
FRONT_ROW = {"trial": int, "origin": str, "method": str, "feasible": bool, "values": dict, "parameters": dict}  # fmt: skip  # noqa: E501
STATUS = {
    "study": str, "trials": int, "budget": int, "pending": int, "running": int, "done": int,
    "failed": int, "front": int, "hypervolume": float, "attempts": int, "evaluation_hours": float,
    "hours": float, "hours_left": float, "failures": dict, "warnings": list,
}  # fmt: skip
PLAN = {
    "study": str, "exists": bool, "base": str, "models": list, "method": str, "groups": dict,
    "parameters": int, "sampler": str, "measured_first": list, "trials": int, "hours": type(None),
    "workers": type(None), "goals": list, "checkpoint_bytes": int, "export": str,
}  # fmt: skip


def shape(record: dict[str, Any]) -> dict[str, type]:
    """Keys with the types of their values."""
    return {key: type(value) for key, value in record.items()}


def without_times(status: dict[str, Any]) -> dict[str, Any]:
    """A status that does not depend on the clock."""
    return {key: value for key, value in status.items() if "hours" not in key}


def test_where_every_number_is_pinned_the_references_are_measured(world: World) -> None:
    world.edit("groups: {layers: all}", "groups: {layers: all}, weight: 0.5, density: 1.0")
    plan = world.run("run", "campaign.yaml", "--dry-run", "--json")
    assert (plan.json["sampler"], plan.json["parameters"]) == ("none: every number is pinned", 0)
    done = world.run("run", "campaign.yaml")
    assert done.code == 0, done
    status = world.run("status", "study", "--json").json
    assert (status["done"], status["failed"]) == (4, 0)


def test_a_campaign_from_its_check_to_its_export(world: World) -> None:
    """check, run, status, front, export, verify, report, dashboard and resume, on one study."""
    world.edit("study: study", "study: study\nexport: {to: merged}")
    ready = world.run("check", "campaign.yaml", "--json")
    assert ready.code == 0, ready
    assert {tuple(row) for row in ready.json} == {("severity", "about", "finding")}
    assert "ready; next: evomerge run campaign.yaml" in ready.err

    before = world.listing()
    plan = world.run("run", "campaign.yaml", "--dry-run", "--json")
    assert shape(plan.json) == PLAN
    assert plan.json["measured_first"] == ["base", "parent math", "parent code", "uniform"]
    assert world.listing() == before

    done = world.run("run", "campaign.yaml", "--json")
    assert done.code == 0, done
    assert re.search(r"done; to go on with more trials: evomerge run \S+ --trials 9", done.err)
    front = done.json
    assert all(shape(row) == FRONT_ROW for row in front)
    measured = front[0]["values"]["near"]["test"]
    assert {key: type(value) for key, value in measured.items()} == MEASURED
    assert world.run("front", "campaign.yaml", "--json").json == front

    status = world.run("status", "study", "--json").json
    assert shape(status) == STATUS
    assert (status["trials"], status["done"], status["failed"]) == (6, 6, 0)
    assert status["front"] == len(front)

    listed = json.loads((world / "merged/front.json").read_text())
    assert [row["trial"] for row in listed] == [row["trial"] for row in front]
    with (world / "merged/front.csv").open(newline="") as file:
        assert [int(row["trial"]) for row in csv.DictReader(file)] == [r["trial"] for r in front]
    exported = sorted(path.name for path in (world / "merged").iterdir() if path.is_dir())
    assert exported
    assert all(world.run("verify", f"merged/{name}", "--json").json == [] for name in exported)

    assert world.run("report", "study", "-o", "report.html").code == 0
    assert (world / "report.html").read_text().lower().startswith("<!doctype html>")
    mirrored = world.run("dashboard", "study", "--to", f"sqlite:///{world / 'mirror.db'}")
    assert mirrored.code == 0, mirrored
    assert "mirrored 6 trials" in mirrored.err

    again = world.run("run", "campaign.yaml", "--trials", "8", "--json")
    assert again.code == 0, again
    assert "resuming after 6 trials" in again.err
    assert world.run("status", "study", "--json").json["trials"] == 8
    assert "--trials 12" in world.run("run", "campaign.yaml").err  # the file's 6 are long done
    assert world.run("verify", "campaign.yaml", "--json").json == []


def test_a_campaign_of_many_models_searches_from_the_third_trial_on(world: World) -> None:
    """check, run, status and report say that the models were not measured; a resume keeps to it."""
    nine = ", ".join(f"m{i}: {'math' if i % 2 else 'code'}" for i in range(9))
    world.edit("{math: math, code: code}", f"{{{nine}}}")
    world.edit("trials: 6", "trials: 14")
    assert "the 9 models are not measured by themselves" in world.run("check", "campaign.yaml").text

    done = world.run("run", "campaign.yaml", "--json")
    assert done.code == 0, done
    assert "models not measured by themselves; new" in done.err
    listed = world.run("report", "study", "-o", "report.html")
    page = (world / "report.html").read_text()
    assert listed.code == 0
    assert "models not measured by themselves" in page
    assert "uniform average" in page
    assert ">parents<" not in page

    world.edit("trials: 14", "trials: 100")  # of which a new study would give them nine
    plan = world.run("run", "campaign.yaml", "--dry-run", "--json").json
    assert plan["measured_first"] == ["base", "uniform"]
    assert world.run("run", "campaign.yaml", "--trials", "16").code == 0
    status = world.run("status", "study", "--json").json
    assert (status["done"], status["parents"]) == (16, "unmeasured")
    assert status["hypervolume"] > 0
    assert world.run("verify", "campaign.yaml", "--json").json == []


def test_tables_on_a_pipe_are_whole_lines(world: World) -> None:
    assert world.run("ask", "campaign.yaml", "-n", "2").code == 0
    assert world.run("tell", "study", "0", "near=1", "small=2").code == 0
    header, _, row = [line for line in world.run("front", "study").out.splitlines() if line.strip()]
    assert header.split("  ")[0].strip() == "trial"
    assert row.split() == ["0", "base", "1", "2"]
    lines = world.run("status", "study").out.splitlines()
    assert [line.split("  ")[0] for line in lines][:3] == ["study", "trials", "budget"]


def test_init_writes_a_campaign_that_only_its_goals_keep_from_running(world: World) -> None:
    assert world.run("init", "base", "math", "code", "-o", "new.yaml").code == 0
    text = (world / "new.yaml").read_text()
    assert "base: base" in text
    found = world.run("check", "new.yaml", "--json")
    assert found.code == 2
    assert {row["about"] for row in found.json if row["severity"] == "error"} <= {
        "goal my_metric",
        *(f"goal {word}" for word in re.findall(r"metric: (\w+)", text)),
    }


def test_the_loop_by_hand(world: World) -> None:
    first, second = world.run("ask", "campaign.yaml", "-n", "2", "--json").json
    assert (first["trial"], first["origin"], second["trial"]) == (0, "base", 1)
    assert list(first) == ["trial", "origin", "method", "parameters"]
    told = world.run("tell", "study", "0", "near=0.5", "small=1")
    assert told.code == 0
    assert "trial 0 is done: near 0.5, small 1" in told.err
    assert world.run("tell", "study", "0", "near=0.5", "small=1").code == 0  # twice is once
    scores = json.dumps({"near": list(range(6)), "small": {"items": [1.0] * 6}})
    assert world.run("tell", "study", "1", scores, "--seconds", "2").code == 0
    rows = world.run("front", "study", "--json").json
    assert [(row["trial"], row["values"]["near"]["search"]["mean"]) for row in rows] == [(1, 2.5)]
    assert world.run("export", "study", "out", "--trial", "1").code == 0
    merged = load_file(world / "out/study-1/model.safetensors")
    parent = load_file(world / "math/model.safetensors")
    assert all(np.allclose(merged[name], parent[name], atol=1e-6) for name in parent)


def test_scores_from_standard_input(world: World) -> None:
    assert world.run("ask", "campaign.yaml").code == 0
    process = world.start("tell", "study", "0", "-")
    _, err = process.communicate('{"near": 1, "small": 2}', timeout=60)
    assert process.returncode == 0, err


def test_merge_verify_and_what_a_changed_byte_does(world: World) -> None:
    assert world.run("merge", "recipe.yaml", "out", "--dtype", "bfloat16").code == 0
    assert world.run("verify", "out").code == 0
    shard = world / "out/model.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    found = world.run("verify", "out", "--json")
    assert found.code == 3
    assert [(row["file"], row["finding"]) for row in found.json] == [
        ("model.safetensors", "content differs")
    ]
    assert "1 files differ from the manifest" in found.err


def test_a_damaged_study_is_repaired_by_the_command_it_names(world: World) -> None:
    assert world.run("run", "campaign.yaml").code == 0
    before = world.run("status", "study", "--json").json
    front = world.run("front", "study", "--json").json
    (world / "study/study.db").write_bytes(b"hello" * 3000)
    damaged = world.run("verify", "study", "--json")
    assert damaged.code == 4
    assert {tuple(row) for row in damaged.json} == {("severity", "text")}
    assert "evomerge verify study --repair" in damaged.err
    assert world.run("verify", "study", "--repair").code == 0
    resumed = world.run("run", "campaign.yaml")
    assert resumed.code == 0, resumed
    assert world.run("front", "study", "--json").json == front
    after = world.run("status", "study", "--json").json
    assert (after["done"], after["hypervolume"]) == (before["done"], before["hypervolume"])


def test_plugins_name_what_a_campaign_file_can_use(world: World) -> None:
    rows = world.run("plugins", "--json").json
    assert {tuple(row) for row in rows} == {("family", "name", "from", "own")}
    names = {(row["family"], row["name"]) for row in rows}
    assert {("sampler", "auto"), ("objective", "python"), ("method", "sparse_signed")} <= names


def test_a_fork_takes_the_old_trials_along(world: World) -> None:
    assert world.run("run", "campaign.yaml").code == 0
    world.edit("sampler: random", "sampler: sobol")
    refused = world.run("run", "campaign.yaml")
    assert refused.code == 4
    forked = world.run("run", "campaign.yaml", "--fork", "--trials", "2")
    assert forked.code == 0, forked
    assert world.run("status", "study", "--json").json["done"] == 6


# --- exit codes


def test_5_when_objectives_fail_for_good(world: World) -> None:
    world.write("score.py", SLOW.replace(f"time.sleep({NAP})", "raise RuntimeError('no GPU 7')"))
    said = world.run("run", "campaign.yaml")
    assert said.code == 5, said
    assert "no GPU" in said.err
    assert "next: evomerge run" in said.err
    assert "Traceback" not in said.err
    assert list(world.run("status", "study", "--json").json["failures"].values()) == [5]


def test_6_when_nothing_meets_the_limits(world: World) -> None:
    world.edit("direction: minimize", "direction: minimize, limit: -1")
    said = world.run("run", "campaign.yaml", "--trials", "4", "--json")
    assert said.code == 6, said
    assert "no trial meets the limits" in said.err
    assert not any(row["feasible"] for row in said.json)
    listed = world.run("front", "study", "--json")
    assert listed.code == 6
    assert listed.json


def test_75_when_the_hours_are_used_up(world: World) -> None:
    world.write("score.py", SLOW)
    world.edit("{trials: 6}", "{trials: 500, hours: 0.0003}")  # 1.08 seconds
    said = world.run("run", "campaign.yaml")
    assert said.code == 75, said
    assert "the budget of hours is used up" in said.err
    assert world.run("status", "study", "--json").json["done"] < 500


def wait_for(world: World, text: str, process: Any) -> str:
    """Standard error up to a line with this text."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def gated() -> str:
    """SLOW, but its evaluations wait for leave, not for time."""
    begins = """
    with (HERE / "begun").open("a") as begun:
        begun.write("x")
    number = (HERE / "begun").stat().st_size
    while number > int((HERE / "allowed").read_text()):
        time.sleep(0.01)"""
    here = "from pathlib import Path\n\nHERE = Path(__file__).parent\n"
    return f"{here}{SLOW.replace(f'time.sleep({NAP})', begins.strip())}"


def allow(world: World, count: int) -> None:
    """From now on the first so many evaluations end, and the others wait."""
    world.write("allowed.new", str(count)).replace(world / "allowed")


def wait_until_begun(world: World, count: int, process: Any) -> None:
    """Until so many evaluations have begun."""
    begun = world / "begun"
    while not begun.exists() or begun.stat().st_size < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_75_when_a_scheduler_ends_it_and_the_same_command_goes_on(world: World) -> None:
    world.write("score.py", gated())
    allow(world, 2)
    assert world.run("ask", "campaign.yaml").code == 0
    process = world.start("run", "campaign.yaml")
    wait_until_begun(world, 3, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert re.search(r"stopped \(SIGTERM\); everything told is kept; next: evomerge run \S+", err)
    assert world.run("status", "study", "--json").json["done"] == 2
    allow(world, 1000)
    resumed = world.run("run", "campaign.yaml", "--trials", "4")
    assert resumed.code == 0, resumed
    assert "resuming after" in resumed.err


def test_ctrl_c_once_finishes_what_runs_and_twice_ends_at_once(world: World) -> None:
    world.write("score.py", gated())
    allow(world, 1)
    assert world.run("ask", "campaign.yaml").code == 0
    process = world.start("run", "campaign.yaml")
    wait_until_begun(world, 2, process)
    process.send_signal(signal.SIGINT)
    assert "1 evaluations still run" in wait_for(world, "stopping: SIGINT", process)
    allow(world, 2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert world.run("status", "study", "--json").json["done"] == 2  # the one that ran is there

    process = world.start("run", "campaign.yaml")
    wait_until_begun(world, 3, process)
    process.send_signal(signal.SIGINT)
    wait_for(world, "stopping: SIGINT", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert world.run("verify", "study").code == 0
    assert world.run("status", "study", "--json").json["done"] == 2
