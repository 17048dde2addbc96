"""``E[v' J v] = tr J`` for signs v drawn alike, whose variance only what is off the diagonal makes."""

import itertools
import math

import torch

from genlab.nets.power_series import RussianRouletteConfig, log_det

J = torch.tensor([[0.2, 0.1, 0.0], [0.3, -0.1, 0.2], [0.0, 0.1, 0.3]]).double()
SIGNS = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3))).double()
"""All that v can be."""


def estimates(matrix):
    return torch.einsum("ni,ij,nj->n", SIGNS, matrix, SIGNS)


def test_the_mean_over_all_signs_is_the_trace():
    for power in 1, 2, 3:
        matrix = torch.linalg.matrix_power(J, power)
        assert torch.allclose(estimates(matrix).mean(), matrix.trace())


def test_the_variance_is_that_of_the_off_diagonal_part():
    """``sum_{i<j} (J_ij + J_ji)^2``: none for a diagonal Jacobian."""
    symmetric = J + J.T
    expected = (symmetric - symmetric.diag().diag()).square().sum() / 2
    assert torch.allclose(estimates(J).var(correction=0), expected)
    assert estimates(J.diag().diag()).var(correction=0) < 1e-30


def test_the_series_of_traces_is_the_log_determinant():
    """``log det(I + J) = sum_k (-1)^(k+1) / k tr(J^k)`` where J contracts."""
    assert torch.linalg.matrix_norm(J, 2) < 1
    series = sum((-1) ** (k + 1) / k * torch.linalg.matrix_power(J, k).trace() for k in range(1, 100))
    assert torch.allclose(series, torch.logdet(torch.eye(3).double() + J))


def test_a_series_of_random_length_is_unbiased_though_it_ends():
    """Each further term is divided by the chance to get there: Chen et al. 2019, eq. 6."""
    torch.manual_seed(0)
    roulette, count = RussianRouletteConfig(exact_terms=1), 4000
    x = torch.zeros(50, 3).double().requires_grad_()
    found = torch.cat([log_det(x, x @ J.T, roulette.weights(training=True), False) for _ in range(count)])
    runs = found.view(count, -1).mean(1)  # one length for each call
    expected = torch.logdet(torch.eye(3).double() + J)
    assert abs(runs.mean() - expected) < 4 * runs.std() / math.sqrt(count)
