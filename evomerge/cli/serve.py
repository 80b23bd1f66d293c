"""``evomerge serve``: the provider's side of black-box merging."""

from __future__ import annotations

from pathlib import Path

import click

from evomerge.cli.arguments import named_models
from evomerge.cli.output import say


@click.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--host", default="127.0.0.1", show_default=True, help="To listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8460,
    show_default=True,
    help="To listen on; 0 takes a free one.",
)
@click.option(
    "--keys-env",
    metavar="VARIABLE",
    help="Environment variable with the keys that let clients in, separated by commas.",
)
@click.option("--name", default="evomerge", show_default=True, help="Of the model, in requests.")
@click.option(
    "--desks",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Mixes at the same time; each holds a live model.",
)
@click.option("--device", help="Such as cpu or cuda:1; the first GPU, if any, by default.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of the mixes; the base's own by default.",
)
def serve(
    *,
    base: Path,
    models: tuple[str, ...],
    host: str,
    port: int,
    keys_env: str | None,
    name: str,
    desks: int,
    device: str | None,
    dtype: str | None,
) -> None:
    """Let others merge these models by coefficients, over HTTP, without their weights.

    BASE is a folder; a MODEL is a folder or file, an adapter's too, or NAME=PATH. Each request
    says its coefficients and gets likelihoods or texts of that mix. Ctrl-C stops.
    """
    from evomerge.serve.server import Service
    from evomerge.serve.server import serve as run_server

    service = Service(
        base=base,
        models=named_models(models),
        host=host,
        port=port,
        keys_env=keys_env,
        name=name,
        desks=desks,
        device=device,
        dtype=dtype,
    )
    run_server(service, lambda url: say(f"serving {len(models)} models on {url}; Ctrl-C stops"))
