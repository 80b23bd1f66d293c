"""``evomerge plugins``: what names a campaign file can use."""

from __future__ import annotations

import click

from evomerge.cli.output import Row, emit, json_option


@click.command()
@json_option
def plugins(*, as_json: bool) -> None:
    """List samplers, objectives and merge methods, ours and installed ones."""
    from evomerge.merging.registry import METHODS
    from evomerge.objectives.registry import OBJECTIVES
    from evomerge.search.registry import SAMPLERS

    rows: list[Row] = [
        {
            "family": registry.family,
            "name": name,
            "from": target,
            "own": name in registry.own,
        }
        for registry in (SAMPLERS, OBJECTIVES, METHODS)
        for name, target in registry.names().items()
    ]
    emit(rows, as_json=as_json)
