"""What a run looks like: redrawn on a terminal, plain lines on a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import World

ESCAPE = "\x1b["
COLOUR = re.compile(r"\x1b\[(?:3[0-7]|9[0-7]|38;)[0-9;]*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(world: World, *words: str, columns: int = 100, **variables: str) -> tuple[int, str]:
    """Exit code of a command on a pseudo-terminal of this width, and all that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    dropped = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
    inherited = {key: value for key, value in os.environ.items() if key not in dropped}
    process = world.start(
        *words,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", **variables},
    )
    os.close(theirs)
    written = b""
    try:
        while block := os.read(ours, 65536):
            written += block
    except OSError:  # Linux says so when the last writer has gone
        pass
    finally:
        os.close(ours)
    return process.wait(240), written.decode()


def begin(world: World) -> None:
    """Make the study, so that the run needs no preflight."""
    assert world.run("ask", "campaign.yaml").code == 0


def fail_for_math(world: World, words: str) -> None:
    """The objective raises for the parent alone whose weight is 1."""
    good = (world / "score.py").read_text()
    raising = f"    if 1.0 in weights[:1]:\n        raise ValueError({words!r})\n"
    world.write("score.py", good.replace("    return [-sum", f"{raising}    return [-sum"))


def plain(text: str) -> str:
    """Without what drives the terminal."""
    return CONTROL.sub("", text).replace("\r", "\n")


def test_a_terminal_gets_a_panel_that_is_redrawn(world: World) -> None:
    begin(world)
    code, shown = on_terminal(world, "run", "campaign.yaml")
    assert code == 0, shown
    assert "\x1b[1A" in shown  # the cursor goes up to draw again
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # and is given back
    text = plain(shown)
    assert "6/6 trials, front" in text
    assert re.search(r"confirmation, 1 workers, running: ", text)
    assert "uniform" in text
    assert "done; to go on with more trials: evomerge run" in text


def test_a_failed_evaluation_stays_above_the_panel(world: World) -> None:
    fail_for_math(world, "too hot")
    begin(world)
    code, shown = on_terminal(world, "run", "campaign.yaml")
    assert code == 0, shown
    assert plain(shown).count("trial 1 failed: ") == 1
    assert "too hot" in plain(shown)


def test_no_color_is_honoured(world: World) -> None:
    _, coloured = on_terminal(world, "run", "nothing.yaml")
    assert COLOUR.search(coloured)
    code, shown = on_terminal(world, "run", "nothing.yaml", NO_COLOR="1")
    assert code == 2
    assert ESCAPE not in shown


def test_a_narrow_terminal_without_colours_is_never_overrun(world: World) -> None:
    begin(world)
    words, columns = ("run", "campaign.yaml", "--trials", "4"), 24
    code, shown = on_terminal(world, *words, columns=columns, NO_COLOR="1")
    assert code == 0, shown
    assert not COLOUR.search(shown)
    panel = shown[shown.index("\x1b[?25l") : shown.index("\x1b[?25h")]
    assert max(len(line.rstrip()) for line in plain(panel).splitlines()) <= columns
    code, table = on_terminal(world, "front", "study", columns=columns)
    assert code == 0, table
    assert max(len(line.rstrip()) for line in plain(table).splitlines()) <= columns


def test_a_pipe_gets_one_plain_line_for_each_evaluation(world: World) -> None:
    begin(world)
    said = world.process("run", "campaign.yaml", "--trials", "4")
    assert said.code == 0, said
    assert ESCAPE not in said.out + said.err
    ended = [line for line in said.err.splitlines() if re.match(r"\[\d+:\d\d\] trial \d", line)]
    search = [line for line in ended if "trials, front" in line]
    assert [line.split("] ")[1].split(":")[0] for line in search] == [
        "trial 0 base",
        "trial 1 parent math",
        "trial 2 parent code",
        "trial 3 uniform",
    ]
    assert re.search(r"near -0\.\d{3}  small \d\.\d{3}  \(4/4 trials, front \d", search[-1])
    assert any(", selection items: near" in line for line in ended)


def test_what_a_fork_brought_along_is_not_counted(world: World) -> None:
    assert world.run("run", "campaign.yaml").code == 0
    world.edit("sampler: random", "sampler: sobol")
    said = world.run("run", "campaign.yaml", "--fork")
    counts = re.findall(r"\((\d+)/6 trials", said.err)
    assert counts == ["5", "6"]  # after the four references, which it has too


def test_text_from_outside_never_drives_the_terminal(world: World) -> None:
    fail_for_math(world, "\x1b[2Jgone")
    said = world.run("run", "campaign.yaml", "--trials", "4")
    assert "gone" in said.err
    assert "\x1b" not in said.err + said.out
    status = world.run("status", "study")
    assert "gone" in status.err
    assert "\x1b" not in status.err + status.out
