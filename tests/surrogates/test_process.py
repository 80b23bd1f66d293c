"""Kernel and posterior against the plain formulas, entry by entry."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evomerge.space import Array
from evomerge.surrogates.kernel import Kernel
from evomerge.surrogates.process import Process, condition, leave_one_out

RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(3, 3))
KERNEL = Kernel(np.full(3, 0.4), ROOT @ ROOT.T, 0.3, 0.7, 0.2, 1.1, 0.9)
POINTS, NEW = RNG.random((7, 3)), RNG.random((4, 3))
OUTPUTS = RNG.normal(size=(7, 2))
NOISE = np.linspace(0.01, 0.1, 7)


def plain(one: Array, other: Array) -> float:
    """The kernel of two points as its docstring has it."""
    z, w = one - KERNEL.centre, other - KERNEL.centre
    g = z @ KERNEL.shape @ w
    r = math.sqrt(max((z - w) @ KERNEL.shape @ (z - w), 0.0)) / KERNEL.lengthscale
    matern = (1 + math.sqrt(5) * r + 5 * r**2 / 3) * math.exp(-math.sqrt(5) * r)
    return float(0.3 + 0.7 * g + 0.2 * g**2 + 1.1 * matern)


def table(rows: Array, columns: Array) -> Array:
    return np.array([[plain(one, other) for other in columns] for one in rows])


def test_the_kernel_is_what_its_formula_says() -> None:
    known, new = KERNEL.places(POINTS), KERNEL.places(NEW)
    assert np.allclose(KERNEL.gram(known, new), table(POINTS, NEW))
    assert np.allclose(KERNEL.diagonal(new), np.diagonal(table(NEW, NEW)))


def test_the_gradients_of_the_kernel_are_those_of_differences() -> None:
    weights, own = RNG.normal(size=(4, 7)), RNG.normal(size=4)
    known, new = KERNEL.places(POINTS), KERNEL.places(NEW)
    for axis in range(3):
        step = 1e-6 * np.eye(3)[axis]
        up, down = KERNEL.places(NEW + step), KERNEL.places(NEW - step)
        ends = KERNEL.gram(up, known) - KERNEL.gram(down, known)
        expected = (weights * ends).sum(axis=1) / 2e-6
        assert np.allclose(KERNEL.pull_gram(new, known, weights)[:, axis], expected, atol=1e-7)
        own_ends = KERNEL.diagonal(up) - KERNEL.diagonal(down)
        assert np.allclose(
            KERNEL.pull_diagonal(new, own)[:, axis], own * own_ends / 2e-6, atol=1e-7
        )


def test_the_gradient_is_finite_where_points_coincide() -> None:
    known = KERNEL.places(POINTS)
    assert np.isfinite(KERNEL.pull_gram(known, known, np.ones((7, 7)))).all()


def predicted(process: Process, points: Array) -> tuple[Array, Array]:
    places = process.kernel.places(points)
    cross = process.kernel.gram(places, process.places)
    return process.means_and_variance(cross, process.kernel.diagonal(places))


def dense(points: Array, outputs: Array, noise: Array) -> tuple[Array, Array]:
    """Rasmussen and Williams (2006), eq. 2.25 and 2.26, at `NEW`."""
    covariance, cross = table(points, points) + np.diag(noise), table(NEW, points)
    means = cross @ np.linalg.solve(covariance, outputs)
    explained = np.diagonal(cross @ np.linalg.solve(covariance, cross.T))
    return means, np.diagonal(table(NEW, NEW)) - explained


def test_the_posterior_is_the_dense_formula() -> None:
    means, variance = predicted(condition(KERNEL, NOISE, POINTS, OUTPUTS), NEW)
    expected_means, expected_variance = dense(POINTS, OUTPUTS, NOISE)
    assert np.allclose(means, expected_means, atol=1e-6)
    assert np.allclose(variance, expected_variance, atol=1e-6)


def test_a_believed_point_changes_variances_as_a_measured_one_and_no_mean() -> None:
    process = condition(KERNEL, NOISE, POINTS, OUTPUTS)
    believed = NEW[:2] + 0.05
    means, variance = predicted(process.believing(believed), NEW)
    values = predicted(process, believed)[0]
    noise = np.append(NOISE, np.full(2, NOISE.mean()))
    expected = dense(np.concatenate([POINTS, believed]), np.concatenate([OUTPUTS, values]), noise)
    assert np.allclose(means, expected[0], atol=1e-5)
    assert np.allclose(means, predicted(process, NEW)[0])
    assert np.allclose(variance, expected[1], atol=1e-6)
    assert process.believing(np.empty((0, 3))) is process


def test_leaving_one_out_is_what_refits_give() -> None:
    errors, variances = leave_one_out(condition(KERNEL, NOISE, POINTS, OUTPUTS))
    for i in range(7):
        rest = np.arange(7) != i
        refit = condition(KERNEL, NOISE[rest], POINTS[rest], OUTPUTS[rest])
        mean, variance = predicted(refit, POINTS[[i]])
        assert np.allclose(mean[0] - OUTPUTS[i], errors[i], atol=1e-6)
        assert variance[0] + NOISE[i] == pytest.approx(variances[i], abs=1e-6)
