"""The command group, and what becomes of an error: one or two lines, and an exit code.

Exit codes: 0 done; 1 a defect of ours; 2 usage, campaign file or preflight; 3 a model file; 4 the
study; 5 objectives failed for good; 6 nothing meets the limits; 75 stopped cleanly, run again to
resume; 130 forced.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence

import click

from evomerge._version import __version__
from evomerge.cli.output import escape
from evomerge.errors import DiskFullError, EvomergeError, StudyError

# In the order of use. A command's module is imported when the command, or a help page, needs it.
COMMANDS = {
    "demo": "evomerge.cli.demo:demo",
    "init": "evomerge.cli.campaign:init",
    "inspect": "evomerge.cli.inspection:inspect",
    "check": "evomerge.cli.campaign:check",
    "run": "evomerge.cli.campaign:run",
    "status": "evomerge.cli.study:status",
    "front": "evomerge.cli.study:front",
    "export": "evomerge.cli.merge:export",
    "merge": "evomerge.cli.merge:merge",
    "answer": "evomerge.cli.answer:answer",
    "report": "evomerge.cli.report:report",
    "ask": "evomerge.cli.ask_tell:ask",
    "tell": "evomerge.cli.ask_tell:tell",
    "verify": "evomerge.cli.verify:verify",
    "dashboard": "evomerge.cli.report:dashboard",
    "serve": "evomerge.cli.serve:serve",
    "gguf": "evomerge.cli.gguf:gguf",
    "plugins": "evomerge.cli.plugins:plugins",
}
DEBUG = "--debug"
FORCED = 130
DEFECT = 1


class Commands(click.Group):
    """A group whose commands are imported when first looked up."""

    def commands_by_name(self) -> list[str]:
        """Every command's name, in the order of use."""
        return list(COMMANDS)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As click asks for them."""
        return self.commands_by_name()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="evomerge")
def cli() -> None:
    """Find the best ways to merge fine-tuned models, with few evaluations.

    A campaign file names a base model, its descendants and the goals; `evomerge run` searches,
    and can be stopped or killed at any moment: the same command continues. STUDY is a campaign
    file or a study's folder. Rows go to stdout (`--json` for scripts), messages to stderr.
    Add --debug to any command for a traceback.
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Returns:
        The exit code.
    """
    debug = DEBUG in arguments
    try:
        result = cli.main(
            [word for word in arguments if word != DEBUG],
            prog_name="evomerge",
            standalone_mode=False,
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return FORCED
    except (BrokenPipeError, SystemExit):  # click exits when a pipe is closed
        return _broken_pipe()
    except EvomergeError as error:
        return _failed(error, debug=debug)
    except OSError as error:
        return _failed(_as_ours(error), debug=debug)
    except Exception:
        return _defect(debug=debug)


def _failed(error: EvomergeError, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    word = "error" if os.environ.get("NO_COLOR") else click.style("error", fg="red")
    text = "\n".join(escape(line) for line in str(error).split("\n"))
    click.echo(f"{word}: {text}", err=True)
    return error.exit_code


def _as_ours(error: OSError) -> EvomergeError:
    """An error of the file system that no room has put into words."""
    import errno

    place = str(error.filename) if error.filename else None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError("there is no space left", place=place)
    return StudyError(error.strerror or str(error), place=place)


def _broken_pipe() -> int:
    """The reader of our rows has gone (``| head``): leave quietly, as other tools do."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def _defect(*, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    else:
        last = traceback.format_exc(limit=-1).strip().splitlines()
        click.echo(f"{last[1].strip() if len(last) > 2 else ''}: {last[-1]}", err=True)
    click.echo(
        "error: this is a defect of evomerge, not of your input; the study is kept. "
        "Please report it with the output of the same command with --debug",
        err=True,
    )
    return DEFECT
