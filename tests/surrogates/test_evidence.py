"""A kernel's numbers: the value, its gradient, and what they find."""

from __future__ import annotations

import numpy as np

from evomerge.space import Array, Coordinate
from evomerge.surrogates.evidence import MOST_POINTS, Outputs, _Evidence, fit
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


def outputs_of(table: Array, count: float = 20.0) -> Outputs:
    scaled = (table - table.mean(axis=0)) / table.std(axis=0)
    return Outputs(scaled @ scaled.T / table.shape[1], np.ones(len(table)), count)


def drawn(n: int, noise: float) -> tuple[Array, Array]:
    """Linear functions whose weights matter, and whose densities do not."""
    rng = np.random.default_rng(1)
    points = rng.random((n, D))
    slopes = (
        rng.normal(size=(D, 50)) * np.array([c.field == "weight" for c in COORDINATES])[:, None]
    )
    table = (points - CENTRE) @ slopes
    return points, table + noise * table.std() * rng.normal(size=table.shape)


def test_the_gradient_is_that_of_differences() -> None:
    points, table = drawn(15, 0.1)
    mixed = Outputs(outputs_of(table).moment, np.linspace(0.5, 1.5, 15), 3.0)
    evidence = _Evidence(STRUCTURE, points - CENTRE, [outputs_of(table), mixed], None)
    numbers = evidence.means + 0.3 * np.random.default_rng(2).normal(size=len(evidence.means))
    _, gradient = evidence.value(numbers)
    for i, step in enumerate(1e-5 * np.eye(len(numbers))):
        ends = evidence.value(numbers + step)[0] - evidence.value(numbers - step)[0]
        assert np.isclose(gradient[i], ends / 2e-5, rtol=1e-5, atol=1e-4)


def test_noise_and_what_matters_are_found() -> None:
    points, table = drawn(80, 0.3)
    found = fit(STRUCTURE, CENTRE, points, [outputs_of(table)])
    # A tenth of the variance is noise: 0.09 / 1.09 of a scaled output's.
    assert 0.03 < found.noise < 0.2
    own = np.diagonal(found.kernel.shape)
    fields = np.array([c.field for c in COORDINATES])
    assert own[fields == "weight"].mean() > 5 * own[fields == "density"].mean()


def test_many_points_are_thinned_out() -> None:
    points, table = drawn(MOST_POINTS + 40, 0.3)
    assert fit(STRUCTURE, CENTRE, points, [outputs_of(table)]).noise < 0.3


def test_one_point_and_equal_points_give_the_prior() -> None:
    for points in (np.full((1, D), 0.5), np.full((3, D), 0.2)):
        silent = Outputs(np.zeros((len(points), len(points))), np.ones(len(points)), 1.0)
        assert np.isfinite(fit(STRUCTURE, CENTRE, points, [silent]).noise)
