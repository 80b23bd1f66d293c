"""``evomerge gguf``: adapters for llama.cpp's server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evomerge.cli.arguments import PATH, named_models
from evomerge.cli.output import emit, json_option, say

if TYPE_CHECKING:
    from evomerge.export.gguf import Split

_NEXT = """\
the server's command, with the base as a GGUF file:
  llama-server -m base.gguf --lora {files} -ctk f32 -ctv f32 -fa off --port 8080
in the campaign:
  models: {{{models}}}
  merge: {{method: task_arithmetic, groups: {{layers: {layers}}}, scaling: {{fixed: 1.0}}}}
  goals:
    - metric: skill
      objective:
        type: llama_server
        url: "http://127.0.0.1:8080"
        adapters: "{rule}"
        items: skill.jsonl"""


def _split(ctx: click.Context, param: click.Parameter, value: str | None) -> Split:
    if value is None or value == "each":
        return None if value is None else "each"
    if value.isdecimal() and value.isascii() and int(value) > 0:
        return int(value)
    raise click.BadParameter(f"{value!r} is no number of bands from 1 on, nor 'each'")


@click.command()
@click.argument("base", type=PATH)
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER...")
@click.option("-o", "--out", type=PATH, required=True, help="Folder to write; must not exist.")
@click.option(
    "--split",
    callback=_split,
    metavar="N|each",
    help="One file for each of N bands of layers, or for each layer; whole adapters by default.",
)
@json_option
def gguf(*, base: Path, adapters: tuple[str, ...], out: Path, split: Split, as_json: bool) -> None:
    """Write LoRA adapters as GGUF files for llama.cpp's server.

    BASE is the folder of the base, of which its config.json is read; an ADAPTER is the folder of a
    PEFT adapter, or NAME=PATH. The server takes one scale for each file and request, so adapters
    that are split have weights per band of layers. Prints the files, and how they are used.
    """
    from evomerge.checkpoint.gguf_names import CONFIG
    from evomerge.checkpoint.hub import located
    from evomerge.export.gguf import naming, write_gguf

    models = named_models(adapters)
    found = {name: located(path) for name, path in models.items()}
    written = write_gguf(located(base, only=CONFIG), found, out, split=split)
    rows = [
        {
            "model": file.model,
            "layers": None if file.layers is None else "{}-{}".format(*file.layers),
            "modules": file.modules,
            "file": str(out / file.name),
        }
        for file in written
    ]
    emit(rows, as_json=as_json)
    say(
        _NEXT.format(
            files=",".join(str(out / file.name) for file in written),
            models=", ".join(f"{name}: {path}" for name, path in models.items()),
            layers="all" if split is None else split,
            rule=naming(split),
        )
    )
