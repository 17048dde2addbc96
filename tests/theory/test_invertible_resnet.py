"""``y = x + g(x)`` has an inverse where g contracts, and iteration finds it at the rate of g's constant."""

import pytest
import torch

from genlab.errors import GenlabError
from genlab.nets.power_series import TruncatedConfig, log_det
from genlab.nets.residual import ResidualBijection


class Wave(torch.nn.Module):
    """``g(x) = c sin(x)``, whose Lipschitz constant is c."""

    def __init__(self, constant):
        super().__init__()
        self.constant = constant

    def forward(self, x):
        return self.constant * x.sin()


def block(constant, iterations=1000):
    return ResidualBijection(Wave(constant), TruncatedConfig(), 1e-12, iterations).double()


@pytest.mark.parametrize("constant", [0.3, 0.9])
def test_iteration_finds_the_inverse(constant):
    x = torch.linspace(-5, 5, 101).double().view(-1, 1)
    layer = block(constant)
    assert torch.allclose(layer.inverse(layer.transform(x)), x, atol=1e-9)


@pytest.mark.parametrize("constant", [0.3, 0.9])
def test_every_iteration_shrinks_the_error_at_least_by_the_constant(constant):
    """Banach's fixed point: Behrmann et al. 2019, section 2.1."""
    layer, x = Wave(constant), torch.linspace(-5, 5, 101).double()
    y = x + layer(x)
    guess = y
    for _ in range(10):
        error = (guess - x).abs()
        guess = y - layer(guess)
        assert ((guess - x).abs() <= constant * error + 1e-12).all()


def test_a_constant_above_one_folds_the_line_and_the_inverse_is_refused():
    layer, x = block(3.0), torch.linspace(-5, 5, 101).double().view(-1, 1)
    assert (layer.transform(x).diff(dim=0) < 0).any()  # not monotone: two points, one image
    with pytest.raises(GenlabError, match="did not converge"):
        layer.inverse(layer.transform(x))


@pytest.mark.parametrize("constant", [0.3, 0.9])
def test_the_determinant_is_within_the_bounds_that_the_constant_sets(constant):
    """``D log(1 - c) <= log det <= D log(1 + c)``: Behrmann et al. 2019, lemma 3 for D dimensions."""
    x = torch.linspace(-3, 3, 30).double().view(10, 3).requires_grad_()
    found = log_det(x, Wave(constant)(x), [1.0] * 400, differentiable=False)
    low, high = (3 * torch.log1p(torch.tensor(sign * constant).double()) for sign in (-1, 1))
    assert (low <= found + 1e-9).all()
    assert (found - 1e-9 <= high).all()
    exact = torch.log1p(constant * x.detach().cos()).sum(1)
    assert torch.allclose(found, exact, atol=1e-9)  # of a diagonal Jacobian every estimate is exact
