"""Trials of which some items were measured: the others, from these and from the trials nearby.

The outputs' covariance is taken as a product, one factor over points and one over items (Bonilla,
Chai and Williams (2008), NIPS 20, section 2). Then a row given all others is its leave-one-out
prediction, and as far as the row's measured items deviate from that, its other items do, as items
are alike. Filled in row after row, again and again, the rows approach the outputs' mean given all
that was measured; predictions are linear in the outputs, so those from completed rows are right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evomerge.space import Array
from evomerge.surrogates.evidence import Fitted
from evomerge.surrogates.likeness import Places, learn_likeness
from evomerge.surrogates.process import Process, condition, leave_one_out

_SWEEPS = 5  # over the rows; more of them change predictions by less than these err


@dataclass(frozen=True)
class _Seen:
    """What some measured items say of a row.

    Attributes:
        gain: ``(k, p)``, from their deviations to those of all items.
        doubt: the mean over all items of the variance that is left.
    """

    places: Places
    gain: Array
    doubt: float


def condition_completed(
    kernel: Fitted, points: Array, whole: Array, partly: Array
) -> tuple[Process, Array, Array]:
    """The posterior after trials measured whole and in part.

    The guesses are the means of what was not measured, so they count in full for the mean; for the
    variance they are as noisy as they were if each trial stood alone. They contain the whole trials
    nearby. So errors of trials left out are those of guesses from each row's own items, which stand
    alone and are that noisy.

    Args:
        points: ``(n + k, d)``, of the whole trials, then of the others.
        whole: ``(n, p)``, n >= 1, outputs; columns of mean 0.
        partly: ``(k, p)``, NaN where an item was not measured.

    Returns:
        The posterior; and of the whole trials, as `leave_one_out`, errors and variances.
    """
    noise = np.full(len(points), kernel.noise)
    process = condition(kernel.kernel, noise, points, np.zeros((len(points), 1)))
    if not len(partly):
        process = replace(process, weights=process.inverse @ whole)
        return process, *leave_one_out(process)
    alone, rows, doubts = completed(whole, partly, process.inverse)
    weights = process.inverse @ np.concatenate([whole, rows])
    noise = noise + np.append(np.zeros(len(whole)), doubts)
    noisy = condition(kernel.kernel, noise, points, np.concatenate([whole, alone]))
    errors, variance = (each[: len(whole)] for each in leave_one_out(noisy))
    process = replace(noisy, weights=weights)
    return process, errors, variance


def completed(whole: Array, partly: Array, inverse: Array) -> tuple[Array, Array, Array]:
    """Rows with all of their items, those measured and those guessed.

    Args:
        whole: ``(n, p)``, n >= 1, of the trials measured on all items; columns of mean 0.
        partly: ``(k, p)``, k >= 1, NaN where an item was not measured.
        inverse: ``(n + k, n + k)``, of the points' covariance with its noise, in this order.

    Returns:
        The rows as if each stood alone and given all, ``(k, p)`` both, and the variance of the
        former's guesses, the mean over all items, ``(k,)``.
    """
    seen = _seen(whole, partly)
    guesses = [row[one.places] @ one.gain for row, one in zip(partly, seen, strict=True)]
    alone = np.where(np.isfinite(partly), partly, np.array(guesses))
    outputs = np.concatenate([whole, alone])
    variances = 1.0 / np.diagonal(inverse)
    for _ in range(_SWEEPS):
        for at, one in enumerate(seen, len(whole)):
            left_out = outputs[at] - variances[at] * (inverse[at] @ outputs)
            measured = outputs[at, one.places]
            outputs[at] = left_out + (measured - left_out[one.places]) @ one.gain
            outputs[at, one.places] = measured
    return alone, outputs[len(whole) :], np.array([one.doubt for one in seen])


def _seen(whole: Array, partly: Array) -> list[_Seen]:
    """One per row; rows of the same items share theirs."""
    likeness = learn_likeness(whole)
    found: dict[bytes, _Seen] = {}
    rows = []
    for known in np.isfinite(partly):
        key = known.tobytes()
        if key not in found:
            places = np.flatnonzero(known)
            gain, covariance = likeness.gain(places)
            variances = np.where(known, 0.0, likeness.variances(covariance))
            found[key] = _Seen(places, gain.T @ likeness.factors, float(variances.mean()))
        rows.append(found[key])
    return rows
