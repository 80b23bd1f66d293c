"""A copy of a study in an Optuna storage, for optuna-dashboard; it can always be made again."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

from evomerge.errors import StudyError, UsageError
from evomerge.space import Space
from evomerge.study.control import is_control
from evomerge.trial import Trial, TrialState

if TYPE_CHECKING:
    import optuna

    from evomerge.study.study import Study

_NUMBER = "evomerge trial"


def mirror(study: Study, url: str) -> int:
    """Adds the ended trials that an Optuna storage does not have yet.

    Trials outside the space come without parameters; those of a control stay out, for they are on
    no front. Mirroring twice, or from two places one
    after the other, adds nothing twice.

    Args:
        url: of the storage, ``sqlite:///mirror.db`` or what else Optuna takes.

    Returns:
        How many trials were added.

    Raises:
        StudyError: if the storage cannot be used, or holds another study of this name.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            target = _target(study, url)
            return _fill(study, target)
    except StudyError:
        raise
    except Exception as error:  # of whatever driver the URL names
        cause = _without_password(f"{type(error).__name__}: {str(error).split(chr(10))[0]}")
        raise StudyError(
            f"the mirror cannot be written ({cause})",
            place=_without_password(url),
            kept="the study itself is as it was",
        ) from None


def serve(url: str, *, host: str, port: int) -> None:
    """Runs optuna-dashboard on a storage until it is interrupted.

    Raises:
        UsageError: if the extra ``dashboard`` is not installed.
    """
    try:
        from optuna_dashboard import run_server
    except ImportError as error:
        raise UsageError(
            "optuna-dashboard is not installed", command="pip install 'evomerge[dashboard]'"
        ) from error
    run_server(url, host=host, port=port)


def _without_password(text: str) -> str:
    return re.sub(r"(://[^/@:\s]*):[^@\s]*@", r"\1:***@", text)


def _target(study: Study, url: str) -> optuna.Study:
    import optuna

    target = optuna.create_study(
        storage=url,
        study_name=study.name,
        directions=[goal.direction for goal in study.goals],
        load_if_exists=True,
    )
    names = [goal.metric for goal in study.goals]
    created = target.user_attrs.get("evomerge created")
    if created not in (None, study.charter.created) or len(target.directions) != len(names):
        raise StudyError(
            f"the storage holds another study called {study.name!r}; mirror into another one",
            place=_without_password(url),
        )
    if created is None:
        target.set_user_attr("evomerge created", study.charter.created)
        target.set_metric_names(names)
    return target


def _fill(study: Study, target: optuna.Study) -> int:
    there = {trial.user_attrs.get(_NUMBER) for trial in target.get_trials(deepcopy=False)}
    space = study.recipe.space
    fresh = [
        trial
        for trial in study.trials()
        if trial.state in (TrialState.DONE, TrialState.FAILED)
        and trial.number not in there
        and not is_control(trial)
    ]
    target.add_trials([_frozen(study, space, trial) for trial in fresh])
    return len(fresh)


def _frozen(study: Study, space: Space, trial: Trial) -> optuna.trial.FrozenTrial:
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.trial import TrialState as State
    from optuna.trial import create_trial

    point = trial.candidate.point
    parameters = {} if point is None else space.values(point)
    distributions: dict[str, BaseDistribution] = {
        p.name: FloatDistribution(p.low, p.high, log=p.scale == "log")
        for p in space.parameters
        if p.name in parameters
    }
    values = None if trial.chance is not None else trial.values("search")
    ended = State.FAIL if trial.chance is None else State.PRUNED
    return create_trial(
        state=ended if values is None else State.COMPLETE,
        values=None if values is None else [values[goal.metric] for goal in study.goals],
        params=parameters,
        distributions=distributions,
        user_attrs=_attributes(trial),
    )


def _attributes(trial: Trial) -> dict[str, Any]:
    attributes: dict[str, Any] = {_NUMBER: trial.number, "origin": trial.candidate.origin}
    if trial.reason:
        attributes["reason"] = trial.reason
    for split, results in trial.results.items():
        for metric, value in results.items():
            attributes[f"{metric} on {split} items"] = value.mean
            attributes[f"{metric} on {split} items, standard error"] = value.standard_error
    return attributes
