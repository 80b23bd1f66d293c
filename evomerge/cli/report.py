"""``evomerge report`` and ``evomerge dashboard``: a study to look at."""

from __future__ import annotations

from pathlib import Path

import click

from evomerge.cli.arguments import PATH, study_argument
from evomerge.cli.output import say


@click.command()
@study_argument
@click.option("-o", "--output", type=PATH, default="report.html", show_default=True)
def report(*, study: Path, output: Path) -> None:
    """Write the front as one self-contained HTML page."""
    from evomerge.checkpoint.files import write_file
    from evomerge.report.page import page
    from evomerge.report.summary import content_of
    from evomerge.study.study import Study

    with Study.read(study) as opened:
        write_file(output, page(content_of(opened)).encode())
    say(f"wrote {output}")


@click.command()
@study_argument
@click.option("--to", "url", metavar="URL", help="Only mirror, into this Optuna storage.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
def dashboard(*, study: Path, url: str | None, host: str, port: int) -> None:
    """Mirror the study into an Optuna storage and open optuna-dashboard on it.

    The study itself is not touched; mirroring again adds what is new. `--to` takes any storage
    URL that Optuna takes, such as sqlite:///mirror.db, and only mirrors. Needs the extra
    `dashboard` unless `--to` is given.
    """
    from evomerge.study.mirror import mirror, serve
    from evomerge.study.study import Study

    with Study.read(study) as opened:
        own = f"sqlite:///{(opened.folder / 'mirror.db').resolve()}"
        storage = url or opened.campaign.mirror_url() or own
        count = mirror(opened, storage)
    say(f"mirrored {count} trials into {storage}")
    if url is None:
        say(f"dashboard on http://{host}:{port} (Ctrl-C ends it)")
        serve(storage, host=host, port=port)
