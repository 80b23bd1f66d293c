"""``evomerge export --prefer``: the merge for other preferences, measured without a search."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from evomerge.cli.ask_tell import parse_pairs
from evomerge.cli.display import watching
from evomerge.cli.output import escape, say
from evomerge.cli.progress import Progress
from evomerge.cli.study import forecast
from evomerge.errors import ObjectiveError, StoppedError
from evomerge.study import loop
from evomerge.study.foresight import foresee, origin_of
from evomerge.study.loop import Ending
from evomerge.study.study import Study
from evomerge.trial import TrialState


def prefer(place: Path, text: str) -> int:
    """Find and measure the merge for ``metric=weight,...``; a study must be there.

    Returns:
        Its trial's number.

    Raises:
        UsageError: on unknown metrics, too few trials, or a surrogate that cannot be trusted.
        ObjectiveError: if it could not be measured.
        StoppedError: by a signal, or a spent budget; the same command continues.
    """
    weights = parse_pairs(tuple(text.split(",")), name="--prefer")
    with Study.read(place) as opened:
        origin = origin_of(opened, weights)
    with Study.open(place) as study:
        foresight = foresee(study)
        trial = foresight.prefer(weights)
        say(f"trial {trial.number} is to {origin}")
        with watching(Progress(study, None)) as watcher:
            result = loop.run(study, workers=1, only=trial.number, on_event=watcher)
        if result.ending is not Ending.FINISHED:
            raise StoppedError(
                f"stopped ({result.why}) before trial {trial.number} was measured",
                kept="everything told is kept",
                command="the same again",
            )
        reasons = result.unconfirmed
        trial = study.trial(trial.number)
        if trial.state is not TrialState.DONE:
            raise ObjectiveError(f"trial {trial.number} failed: {trial.reason}")
        for number, reason in reasons.items():
            say(f"trial {number} could not be measured on the held-out items: {escape(reason)}")
        predicted = foresight.predicted(trial.candidate)
        for metric, value in (trial.values() or {}).items():
            say(f"{metric}: predicted {forecast(predicted, metric)}, measured {value:.4g}")
        better = foresight.measured_better(trial, weights)
        if better is not None:
            say(
                f"trial {better.number} ({better.candidate.origin}) measured better for these "
                f"weights; to have it: evomerge export {quote(str(place))} OUT "
                f"--trial {better.number}"
            )
    return trial.number
