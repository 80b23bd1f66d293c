"""Muon: orthogonal steps."""

from __future__ import annotations

import pytest
import torch

from evomerge.demo.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (3, 7), (7, 3), (64, 160)])
def test_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(matrix))
    assert orthogonalized(matrix).shape == shape
    assert values.min() > 0.3  # the smallest of a random square matrix are the last to rise
    assert values.max() < 1.25


def test_a_matrix_of_zeros_stays_so() -> None:
    assert torch.equal(orthogonalized(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_a_step_has_the_size_that_the_rate_says() -> None:
    matrix = torch.nn.Parameter(torch.zeros(1, 4))
    matrix.grad = torch.tensor([[0.0, 2.0, 0.0, 0.0]])
    Muon([matrix]).step(0.5)
    step = -matrix[0, 1].item()
    assert 0.5 * 0.2 * 2 * 0.65 <= step <= 0.5 * 0.2 * 2 * 1.25  # rate * 0.2 * sqrt(4) * about 1
    assert matrix.abs().sum().item() == pytest.approx(step)


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    matrix = torch.nn.Parameter(torch.ones(2, 2))
    Muon([matrix]).step(1.0)
    assert torch.equal(matrix, torch.ones(2, 2))
