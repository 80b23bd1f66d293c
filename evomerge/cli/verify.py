"""``evomerge verify``: an export against its manifest, or a study against its invariants."""

from __future__ import annotations

from pathlib import Path

import click

from evomerge.cli.arguments import PATH
from evomerge.cli.output import emit, json_option, say
from evomerge.errors import CheckpointError, StudyDamagedError, UsageError


@click.command()
@click.argument("path", type=PATH)
@click.option("--repair", is_flag=True, help="Rebuild a damaged study from what is left of it.")
@json_option
def verify(*, path: Path, repair: bool, as_json: bool) -> int:
    """Check an export against its manifest, or a study against its own invariants.

    PATH is an exported checkpoint, a study's folder or a campaign file. `--repair` rebuilds a
    damaged study from its backup and the attempts' result files; the damaged database is kept
    beside it.
    """
    from evomerge.export.lineage import MANIFEST

    if (path / MANIFEST).exists():
        if repair:
            raise UsageError("an export is not repaired; export the trial again", place=str(path))
        return _verify_export(path, as_json=as_json)
    return _verify_study(path, repair=repair, as_json=as_json)


def _verify_export(folder: Path, *, as_json: bool) -> int:
    from evomerge.export.manifest import verify as findings_of

    findings = findings_of(folder)
    emit(findings, as_json=as_json)
    if findings:
        say(f"{folder}: {len(findings)} files differ from the manifest")
        return CheckpointError.exit_code
    say(f"{folder}: whole; every file is as it was written")
    return 0


def _verify_study(path: Path, *, repair: bool, as_json: bool) -> int:
    from evomerge.study.repair import repair as mend
    from evomerge.study.repair import study_folder
    from evomerge.study.verify import verify as findings_of

    folder = study_folder(path)
    if repair:
        for line in mend(folder):
            say(line)
    findings = findings_of(folder)
    emit([finding.row() for finding in findings], as_json=as_json)
    if any(finding.severity == "error" for finding in findings):
        say(f"{folder}: damaged; next: evomerge verify {path} --repair")
        return StudyDamagedError.exit_code
    say(f"{folder}: whole")
    return 0
