"""Quadratics: recovered exactly, by hand, and where coefficients outnumber trials."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.space import Array, Coordinate
from evomerge.surrogates.basis import Basis, diagonal, full, low_rank, profiles
from evomerge.surrogates.history import FitError
from evomerge.surrogates.quadratic import fit_exactly, fit_quadratic
from evomerge.surrogates.responses import Response, responses_of

RESPONSES = [Response("identity"), Response("sigmoid", -1.0, 0.0), Response("softplus")]


def bowl(d: int, seed: int = 0) -> tuple[Array, Array, float]:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d)) / np.sqrt(d)
    return root @ root.T, rng.normal(size=d), -0.5


def latent(points: Array, d: int) -> Array:
    curvature, slope, constant = bowl(d)
    z = points - 0.5
    return np.einsum("ni,ij,nj->n", z, curvature, z) + z @ slope + constant


@pytest.mark.parametrize("response", RESPONSES, ids=lambda r: r.shape)
@pytest.mark.parametrize("d", [1, 2, 5, 8])
def test_a_quadratic_is_recovered_without_noise(d: int, response: Response) -> None:
    """From (d + 1)(d + 2) trials, twice the coefficients; the losses tell the response."""
    rng = np.random.default_rng(1)
    points, new = rng.random(((d + 1) * (d + 2), d)), rng.random((50, d))
    losses = response.value(latent(points, d))[:, None]
    noise, centre = np.full_like(losses, 0.01), np.full(d, 0.5)
    exact = fit_exactly(full(centre), points, losses, noise)
    assert exact.surfaces[0].coefficients[-1] == pytest.approx(-0.5, abs=1e-6)
    for found in (exact, fit_quadratic(centre, points, losses, noise, [None] * d)):
        assert found.surfaces[0].response == response
        assert np.abs(found.predict(new).mean[:, 0] - response.value(latent(new, d))).max() < 1e-6
        assert found.fits[0].explained > 1 - 1e-8


def test_a_design_of_two_levels_cannot_fix_the_squares() -> None:
    """Eight models at 0 and 1 only, as MAP's own design has them."""
    points = (np.random.default_rng(2).random((90, 8)) < 0.5).astype(float)
    losses = points.sum(axis=1)[:, None]
    with pytest.raises(FitError, match="90 trials fix 37 of 45 coefficients"):
        fit_exactly(full(np.zeros(8)), points, losses, np.ones_like(losses))


def test_the_responses_and_their_slopes() -> None:
    q = np.linspace(-3, 3, 7)
    for response in RESPONSES:
        assert np.allclose(response.latent(response.value(q)), q)
        ends = response.value(q + 1e-6) - response.value(q - 1e-6)
        assert np.allclose(response.slope(q), ends / 2e-6)
    sigmoid = RESPONSES[1]
    assert sigmoid.value(np.zeros(1)).tolist() == [-0.5]
    assert np.isfinite(sigmoid.latent(np.array([-1.0, 0.0]))).all()


@pytest.mark.parametrize(
    ("losses", "shapes"),
    [
        ([-0.9, -0.2], ["sigmoid", "identity"]),
        ([0.1, 0.4], ["sigmoid", "identity", "softplus"]),
        ([1.5, 30.0], ["identity", "softplus"]),
        ([-3.0, 0.5], ["identity"]),
    ],
)
def test_losses_tell_which_responses_may_be_behind_them(
    losses: list[float], shapes: list[str]
) -> None:
    assert [response.shape for response in responses_of(np.array(losses))] == shapes


@pytest.mark.parametrize(
    "basis",
    [
        full(np.full(3, 0.5)),
        diagonal(np.full(3, 0.5)),
        low_rank(np.full(3, 0.5), np.array([[0.6, 0.8, 0.0]])),
    ],
    ids=lambda basis: basis.name,
)
def test_the_gradient_of_the_monomials_is_that_of_differences(basis: Basis) -> None:
    rng = np.random.default_rng(3)
    points, weights = rng.random((4, 3)), rng.normal(size=(4, len(basis)))
    for axis, step in enumerate(1e-6 * np.eye(3)):
        ends = basis.features(points + step) - basis.features(points - step)
        expected = (weights * ends).sum(axis=1) / 2e-6
        assert np.allclose(basis.pull(points, weights)[:, axis], expected, atol=1e-7)


def test_the_monomials_by_hand() -> None:
    z = np.array([[2.0, 3.0]])
    assert full(np.zeros(2)).features(z).tolist() == [[4, 6, 2, 9, 3, 1]]
    assert diagonal(np.zeros(2)).features(z).tolist() == [[1, 2, 3, 4, 9]]
    mixed = low_rank(np.zeros(2), np.array([[1.0, 1.0]]))
    assert mixed.features(z).tolist() == [[1, 2, 3, 4, 9, 25]]


def test_profiles_are_means_and_slopes_over_depth() -> None:
    places = [Coordinate("math", depth, None, "weight") for depth in (0.0, 0.5, 1.0)]
    basis = profiles(np.zeros(3), places)
    assert basis is not None
    assert np.allclose(basis.projection, [[1 / 3] * 3, [-0.5, 0.0, 0.5]])
    assert len(basis) == 6
    assert profiles(np.zeros(1), places[:1]) is None
    assert profiles(np.zeros(1), [None]) is None


def test_a_ridge_keeps_few_trials_usable() -> None:
    """20 parameters, 60 trials, 231 coefficients: nearly linear, and bent along one direction."""
    rng = np.random.default_rng(4)
    points, new = rng.random((60, 20)), rng.random((200, 20))
    slope = 0.7 * rng.normal(size=20)

    def truth(x: Array) -> Array:
        along = (x - 0.5) @ slope
        return Response("sigmoid", -1.0, 0.0).value(along + 0.3 * along**2)

    noisy = truth(points)[:, None] + 0.01 * rng.normal(size=(60, 1))
    found = fit_quadratic(np.full(20, 0.5), points, noisy, np.full_like(noisy, 1e-4), [None] * 20)
    error = found.predict(new).mean[:, 0] - truth(new)
    assert np.std(error) < 0.5 * np.std(truth(new))
    assert found.fits[0].explained > 0.7
    away = np.abs(error) / found.predict(new).spread[:, 0]
    assert np.mean(away < 1.645) > 0.7


def test_left_out_errors_are_those_of_refits() -> None:
    """Exact for the identity without a ridge."""
    rng = np.random.default_rng(5)
    points = rng.random((12, 2))
    losses = latent(points, 2)[:, None] + 0.1 * rng.normal(size=(12, 1)) - 5.0
    basis, flat = full(np.full(2, 0.5)), np.ones((12, 1))
    found = fit_exactly(basis, points, losses, flat)
    errors = []
    for i in range(12):
        rest = np.arange(12) != i
        refit = fit_exactly(basis, points[rest], losses[rest], flat[rest])
        errors.append(refit.predict(points[[i]]).mean[0, 0] - losses[i, 0])
    assert found.fits[0].error == pytest.approx(np.sqrt(np.mean(np.square(errors))))


def test_gradients_of_predictions_are_those_of_differences() -> None:
    rng = np.random.default_rng(6)
    points = rng.random((30, 3))
    losses = np.stack([r.value(latent(points, 3)) for r in RESPONSES[:2]], axis=1)
    losses += 0.02 * rng.normal(size=losses.shape)
    flat = np.full_like(losses, 4e-4)
    found = fit_exactly(full(np.full(3, 0.5)), points, losses, flat)
    new, weights = rng.random((5, 3)), rng.normal(size=(5, 2))
    _, pull = found.linearise(new)
    for axis, step in enumerate(1e-6 * np.eye(3)):
        ends = found.predict(new + step).mean - found.predict(new - step).mean
        expected = (weights * ends).sum(axis=1) / 2e-6
        assert np.allclose(pull(weights, np.zeros((5, 2)))[:, axis], expected, atol=1e-6)


def test_too_few_trials_are_refused() -> None:
    with pytest.raises(FitError, match="3 trials; a fit needs 4"):
        fit_quadratic(np.zeros(2), np.zeros((3, 2)), np.zeros((3, 1)), np.ones((3, 1)), [None] * 2)
