"""The surrogates of the goals: by margins, by losses, and the blend of both."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from evomerge.interfaces import Surrogate
from evomerge.space import Array, Coordinate
from evomerge.surrogates.blend import Blend, Kernels, fit_blend, learn_kernels
from evomerge.surrogates.history import FitError, GoalItems, History, filled_variances
from evomerge.surrogates.losses import fit_losses
from evomerge.surrogates.margins import fit_margins
from evomerge.surrogates.structure import structure_of

COORDINATES = tuple(
    Coordinate(model, depth, None, field)
    for model in ("math", "code")
    for depth in (0.0, 0.5, 1.0)
    for field in ("weight", "density")
)
STRUCTURE = structure_of(COORDINATES)
D = len(COORDINATES)
CENTRE = np.full(D, 0.5)


@dataclass(frozen=True)
class ItemWorld:
    """Items whose margins are smooth in the point; a loss is 1 where the margin is above 0."""

    slopes: Array  # (goals, d, items)
    bends: Array  # (goals, d, items)
    offsets: Array  # (goals, items)

    def margins(self, points: Array) -> list[Array]:
        z = points - 0.5
        bent = [(z @ b) ** 2 for b in self.bends]
        return [
            z @ a + o + 0.4 * c for a, o, c in zip(self.slopes, self.offsets, bent, strict=True)
        ]

    def losses(self, points: Array) -> Array:
        return np.array([(m > 0).mean(axis=1) for m in self.margins(points)]).T

    def history(self, points: Array) -> History:
        margins = self.margins(points)
        losses = self.losses(points)
        items = tuple(GoalItems((m > 0).astype(float), m) for m in margins)
        return History(points, losses, losses * (1 - losses) / margins[0].shape[1], items)


@pytest.fixture(scope="module")
def world() -> ItemWorld:
    rng = np.random.default_rng(5)
    d, items = len(COORDINATES), 60
    common = rng.normal(size=(2, d, 1))
    return ItemWorld(
        slopes=common + 0.5 * rng.normal(size=(2, d, items)),
        bends=0.7 * common + 0.3 * rng.normal(size=(2, d, items)),
        offsets=0.8 * rng.normal(size=(2, items)) - 0.3,
    )


def points(count: int, seed: int = 0) -> Array:
    return 0.5 + 0.2 * np.random.default_rng(seed).normal(size=(count, D))


def blended(history: History) -> Blend:
    return fit_blend(STRUCTURE, CENTRE, history, learn_kernels(STRUCTURE, CENTRE, history))


def margins_only(history: History) -> Surrogate:
    items = [one for one in history.items if one is not None]
    return fit_margins(STRUCTURE, CENTRE, history.points, history.losses, items)


def losses_only(history: History) -> Surrogate:
    variances = filled_variances(history)
    return fit_losses(STRUCTURE, CENTRE, history.points, history.losses, variances, stated=True)


SURROGATES = {"margins": margins_only, "losses": losses_only, "blend": blended}


@pytest.fixture(params=list(SURROGATES))
def fitted(request: pytest.FixtureRequest, world: ItemWorld) -> Surrogate:
    return SURROGATES[request.param](world.history(points(40)))


def test_means_follow_unseen_points(fitted: Surrogate, world: ItemWorld) -> None:
    new = points(200, seed=1)
    error = fitted.predict(new).mean - world.losses(new)
    assert (error.std(axis=0) < 0.7 * world.losses(new).std(axis=0)).all()


def test_intervals_hold_what_they_say_on_unseen_points(fitted: Surrogate, world: ItemWorld) -> None:
    """Within the tolerance of 40 trials for the fit."""
    new = points(400, seed=2)
    found = fitted.predict(new)
    away = np.abs(found.mean - world.losses(new)) / found.spread
    assert 0.75 < np.mean(away < 1.645) < 0.99
    assert 0.35 < np.mean(away < 0.674) < 0.65


def test_the_fit_says_how_well_left_out_trials_are_predicted(fitted: Surrogate) -> None:
    for fit in fitted.fits:
        assert 0.4 < fit.explained < 1
        assert fit.coverage_50 < fit.coverage_90
        assert 0.75 < fit.coverage_90 <= 1


def test_gradients_are_those_of_differences(fitted: Surrogate) -> None:
    new, rng = points(4, seed=3), np.random.default_rng(4)
    weights = rng.normal(size=(4, 2))
    _, pull = fitted.linearise(new)
    found = pull(weights, np.zeros((4, 2)))
    for axis, step in enumerate(1e-5 * np.eye(D)):
        ends = fitted.predict(new + step).mean - fitted.predict(new - step).mean
        assert np.allclose(found[:, axis], (weights * ends).sum(axis=1) / 2e-5, atol=1e-6)


def test_believed_points_lessen_the_std_and_leave_the_mean(fitted: Surrogate) -> None:
    new = points(3, seed=5)
    before, after = fitted.predict(new), fitted.believing(new[:1]).predict(new)
    assert np.allclose(before.mean, after.mean, atol=0.02)
    assert (after.std[0] < before.std[0]).all()


def test_margins_learn_faster_than_losses(world: ItemWorld) -> None:
    history, new = world.history(points(25)), points(300, seed=6)
    errors = {
        name: np.abs(make(history).predict(new).mean - world.losses(new)).mean()
        for name, make in SURROGATES.items()
    }
    assert errors["margins"] < 0.8 * errors["losses"]
    assert errors["blend"] < 1.1 * errors["margins"]


def test_margins_of_no_use_are_given_no_weight(world: ItemWorld) -> None:
    history = world.history(points(60))
    rng = np.random.default_rng(7)
    junk = tuple(
        GoalItems(one.losses, rng.normal(size=one.margins.shape))
        for one in history.items
        if one is not None
    )
    surrogate = blended(replace(history, items=junk))
    assert (surrogate.weights < 0.4).all()
    assert all(fit.explained > 0.3 for fit in surrogate.fits)


def test_a_goal_without_margins_is_predicted_by_its_losses(world: ItemWorld) -> None:
    history = world.history(points(40))
    surrogate = blended(replace(history, items=(None, history.items[1])))
    assert surrogate.weights[0] == 0
    assert surrogate.weights[1] > 0.5
    assert surrogate.modelled == (1,)


def test_trials_without_items_teach_their_losses(world: ItemWorld) -> None:
    history = world.history(points(40))
    holes = []
    for one in history.items:
        assert one is not None
        margins, losses = one.margins.copy(), one.losses.copy()
        margins[::3], losses[::3] = np.nan, np.nan
        holes.append(GoalItems(losses, margins))
    surrogate = blended(replace(history, items=tuple(holes)))
    assert surrogate.margins is not None and surrogate.losses is not None
    assert len(surrogate.margins.rows) == 26
    assert len(surrogate.losses.processes[0].places) == 40


def test_noise_is_told_from_signal_by_the_loss_surrogate() -> None:
    """Of two halves the noisier one is believed less."""
    rng = np.random.default_rng(8)
    x, variances = points(80), np.full((80, 1), 0.01)
    variances[::2] = 1.0
    truth = (x - 0.5) @ rng.normal(size=(D, 1))
    losses = truth + np.sqrt(variances) * rng.normal(size=(80, 1))
    surrogate = fit_losses(STRUCTURE, CENTRE, x, losses, variances, stated=True)
    error = np.abs(surrogate.predict(x).mean - truth)[:, 0]
    assert error.mean() < 0.5 * np.abs(losses - truth).mean()
    assert surrogate.processes[0].noise[0] == 100 * surrogate.processes[0].noise[1]


def test_a_standard_error_is_not_taken_for_what_sets_trials_apart(world: ItemWorld) -> None:
    """Of a mean that is as uncertain as the trials differ, on the same items for all of them."""
    x = points(16)
    losses = world.losses(x)[:, :1]
    surrogate = fit_losses(
        STRUCTURE, CENTRE, x, losses, np.full((16, 1), losses.var()), stated=True
    )
    assert surrogate.noise < 0.1


def test_noise_that_nobody_states_may_be_large() -> None:
    """Half of the variance; a scalar comes without a standard error."""
    rng, structure, centre = np.random.default_rng(0), structure_of([None] * 4), np.full(4, 0.5)
    x = rng.uniform(size=(40, 4))
    truth = x @ rng.normal(size=(4, 1))
    losses = truth + truth.std() * rng.normal(size=(40, 1))
    history = History(x, losses, np.full((40, 1), np.nan), (None,))
    surrogate = fit_blend(structure, centre, history, Kernels()).losses
    assert surrogate is not None
    assert 0.25 < surrogate.noise < 0.75


def test_what_cannot_be_learnt_from_is_refused(world: ItemWorld) -> None:
    with pytest.raises(FitError, match="3 trials, too few or all equal"):
        blended(world.history(points(3)))
    flat = History(points(9), np.ones((9, 1)), np.full((9, 1), np.nan), (None,))
    with pytest.raises(FitError, match="too few or all equal"):
        fit_blend(STRUCTURE, CENTRE, flat, Kernels())
    same = GoalItems(np.ones((9, 5)), np.ones((9, 5)))
    with pytest.raises(FitError, match="margins of all trials are equal"):
        fit_margins(STRUCTURE, CENTRE, points(9), np.ones((9, 1)), [same])


def test_unknown_and_vanishing_noise_is_filled_in() -> None:
    variances = np.array([[4.0], [np.nan], [0.0], [4.0]])
    history = History(points(4), np.zeros((4, 1)), variances, (None,))
    assert filled_variances(history)[:, 0].tolist() == [4.0, 4.0, 1.0, 4.0]
