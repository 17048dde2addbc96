"""An affine coupling's Jacobian is triangular: its log-determinant is the sum of the log-scales."""

import torch

from genlab.nets.couplings import MaskedCoupling, ScaleAndShift

MASK = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])


def coupling():
    torch.manual_seed(0)
    net = torch.nn.Conv2d(2, 2, 3, padding=1)
    return MaskedCoupling(ScaleAndShift(net, 1), MASK).double()


def jacobian(layer, x):
    def flat(values):
        return layer(values.view(1, 1, 2, 2))[0].flatten()

    return torch.autograd.functional.jacobian(flat, x.flatten())


def test_with_the_half_that_stays_first_it_is_triangular():
    layer, x = coupling(), torch.randn(1, 1, 2, 2).double()
    order = MASK.flatten().argsort(descending=True)
    found = jacobian(layer, x)[order][:, order]
    assert torch.equal(found[:2, :2], torch.eye(2).double())
    assert torch.equal(found[:2, 2:], torch.zeros(2, 2).double())
    assert torch.equal(found[2:, 2:], found[2:, 2:].diag().diag())
    assert found[2:, :2].abs().min() > 0  # what is read may change everything, at no cost


def test_its_log_determinant_is_the_sum_of_the_log_scales():
    layer, x = coupling(), torch.randn(1, 1, 2, 2).double()
    found, log_det = jacobian(layer, x), layer(x)[1]
    assert torch.allclose(found.logdet(), log_det[0])
    assert torch.allclose(found.diag().log().sum(), log_det[0])


def test_the_inverse_needs_no_inverse_of_the_network():
    layer, x = coupling(), torch.randn(5, 1, 2, 2).double()
    assert torch.allclose(layer.inverse(layer(x)[0]), x, atol=1e-12)
