"""Every bijection: the inverse undoes the map, and its log-determinant is autograd's."""

import pytest
import torch
from flows import slogdet
from torch import nn

from genlab.nets import bijections
from genlab.nets.mlp import MLP, MLPConfig
from genlab.nets.resnet import ResNet, ResNetConfig


def _random_weights(module: nn.Module) -> nn.Module:
    """Away from the identity that couplings start as."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.double()


def _coupling(dim: int, split: int, shape: tuple[int, ...]) -> bijections.AffineCoupling:
    out = 2 * (dim - split)
    net = (
        MLP(MLPConfig(hidden_dim=7, activation="tanh"), split, out)
        if len(shape) == 1
        else ResNet(ResNetConfig(hidden_channels=4, num_blocks=1, activation="tanh"), split, out)
    )
    return bijections.AffineCoupling(net, split, bound=2.0)


CASES = {
    "permutation": (lambda: bijections.Permutation(torch.randperm(6)), (6,)),
    "permutation of channels": (lambda: bijections.Permutation(torch.randperm(4)), (4, 2, 2)),
    "flatten": (lambda: bijections.Flatten((2, 2, 3)), (2, 2, 3)),
    "squeeze": (lambda: bijections.Squeeze(), (2, 4, 2)),
    "actnorm": (lambda: bijections.ActNorm(5), (5,)),
    "actnorm of channels": (lambda: bijections.ActNorm(3), (3, 2, 2)),
    "coupling": (lambda: _coupling(7, 3, (7,)), (7,)),
    "coupling of channels": (lambda: _coupling(4, 2, (4, 2, 2)), (4, 2, 2)),
    "compose": (
        lambda: bijections.Compose(
            [bijections.ActNorm(6), _coupling(6, 3, (6,)), bijections.Permutation(torch.randperm(6))]
        ),
        (6,),
    ),
}


@pytest.fixture(params=CASES, ids=str)
def case(request):
    torch.manual_seed(0)
    build, shape = CASES[request.param]
    return _random_weights(build()), torch.randn(3, *shape, dtype=torch.float64)


def test_the_inverse_undoes_the_map(case):
    bijection, x = case
    y, _ = bijection(x)
    assert torch.allclose(bijection.inverse(y), x, atol=1e-10)


def test_the_log_determinant_is_that_of_the_jacobian(case):
    bijection, x = case
    _, log_det = bijection(x)
    assert torch.allclose(log_det, slogdet(bijection, x), rtol=0, atol=1e-9)


def test_actnorm_normalises_its_first_batch():
    x = 5 + 3 * torch.randn(500, 4, 2, 2)
    y = bijections.ActNorm(4).initialize(x)
    values = y.transpose(0, 1).flatten(1)
    assert torch.allclose(values.mean(1), torch.zeros(4), atol=1e-5)
    assert torch.allclose(values.std(1), torch.ones(4), atol=1e-4)


def test_actnorm_does_not_blow_up_a_pixel_that_never_changes():
    y = bijections.ActNorm(2).initialize(torch.ones(10, 2))
    assert torch.equal(y, torch.zeros(10, 2))


def test_a_coupling_starts_as_the_identity_and_is_bounded():
    coupling = _coupling(6, 3, (6,))
    x = torch.randn(4, 6)
    y, log_det = coupling(x)
    assert torch.equal(x, y)
    assert torch.equal(log_det, torch.zeros(4))
    with torch.no_grad():
        coupling.net[-1].bias.fill_(1e6)
    assert coupling(x)[1].max() <= 3 * coupling.bound


def test_squeeze_keeps_squares_of_pixels_together():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    y, _ = bijections.Squeeze()(x)
    assert y[0, :, 0, 0].tolist() == [0, 1, 4, 5]


def test_a_permutation_can_be_differentiated_twice():
    permutation = bijections.Permutation(torch.randperm(5))
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda v: permutation(v)[0].pow(3).sum(), x)
