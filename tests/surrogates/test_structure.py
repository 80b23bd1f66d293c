"""Which parameters act alike."""

from __future__ import annotations

import numpy as np

from evomerge.space import Coordinate
from evomerge.surrogates.structure import structure_of

COORDINATES = tuple(
    Coordinate(model, depth, None, field)
    for model in ("math", "code")
    for depth in (0.0, 0.5, 1.0)
    for field in ("weight", "density")
)


def test_without_coordinates_every_parameter_is_on_its_own() -> None:
    structure = structure_of([None, None, None])
    assert structure.parameters == 0
    assert np.array_equal(structure.components, np.eye(3)[None])
    assert structure.coefficients(np.empty(0))[0].tolist() == [1.0]


def test_one_group_of_one_model_and_field_has_nothing_to_learn() -> None:
    structure = structure_of([Coordinate("math", None, None, "weight")])
    assert structure.components.tolist() == [[[1.0]]]
    assert structure.parameters == 0


def test_two_models_may_act_alike() -> None:
    structure = structure_of([Coordinate(m, None, None, "weight") for m in ("math", "code")])
    assert structure.components.tolist() == [[[1, 0], [0, 1]], [[1, 1], [1, 1]]]
    assert structure.coefficients(np.zeros(1))[0].tolist() == [0.5, 0.5]


def test_neighbours_in_depth_act_more_alike_than_distant_groups() -> None:
    places = [Coordinate("math", depth, None, "weight") for depth in (0.0, 0.3, 1.0)]
    shared, smooth, own = structure_of(places).components
    assert np.array_equal(shared, np.ones((3, 3)))
    assert np.array_equal(own, np.eye(3))
    assert np.allclose(smooth[0], [1.0, np.exp(-0.5), np.exp(-0.5 / 0.09)])


def test_other_kinds_of_module_act_half_as_alike() -> None:
    places = [Coordinate("math", 0.5, kind, "weight") for kind in ("attention", "mlp")]
    assert np.allclose(structure_of(places).components[1], [[1.0, 0.5], [0.5, 1.0]])


def test_components_are_covariances_and_coefficients_have_their_derivatives() -> None:
    structure = structure_of(COORDINATES)
    assert structure.parameters == 1 + 1 + 2
    for component in structure.components:
        assert np.linalg.eigvalsh(component).min() > -1e-12
    numbers = np.array([0.3, -0.7, 0.2, 1.1])
    values, slopes = structure.coefficients(numbers)
    assert (values > 0).all()
    for i in range(4):
        step = 1e-6 * np.eye(4)[i]
        up, down = structure.coefficients(numbers + step)[0], structure.coefficients(numbers - step)
        assert np.allclose((up - down[0]) / 2e-6, slopes[:, i], atol=1e-8)
