"""Writes docs/commands.md from the commands' own help: ``python docs/make_commands.py``."""

from __future__ import annotations

from pathlib import Path

import click

from evomerge.cli.app import cli

HEAD = """# Commands

What `evomerge COMMAND --help` says; this page is made from it by `python docs/make_commands.py`.

Exit codes: 0 done; 1 a defect of ours; 2 usage, campaign file or preflight; 3 a model file is
broken or does not fit; 4 the study (locked, damaged, another campaign's, disk full); 5 objectives
failed for good; 6 finished, but nothing meets the limits; 75 stopped cleanly, run again to
resume; 130 forced.
"""


WIDTHS = {"max_content_width": 90, "terminal_width": 90}


def render() -> str:
    """The page's text."""
    group = click.Context(cli, info_name="evomerge", **WIDTHS, **cli.context_settings)
    parts = [HEAD, block(cli, group)]
    for name in cli.commands_by_name():
        command = cli.get_command(group, name)
        context = click.Context(command, parent=group, info_name=name, **WIDTHS)
        parts.append(f"## {name}\n\n{block(command, context)}")
    return "\n".join(parts)


def block(command: click.Command, context: click.Context) -> str:
    """One help text as a code block."""
    return f"```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    (Path(__file__).parent / "commands.md").write_text(render(), encoding="utf-8")
