"""A dimension collapses where it explains less of the data than the decoder's noise: q is the prior there.

For a linear decoder of noise ``s`` the best ELBO is the evidence of probabilistic PCA, whose best weights are
zero along each principal axis with a variance below ``s^2`` (Lucas et al. 2019, "Don't blame the ELBO!").
"""

import pytest
import torch

from genlab.nets.gaussian import DiagonalGaussian

VARIANCES = torch.tensor([4.0, 1.0, 0.25]).double()
"""Of the data, along their axes."""


def trained(noise, beta=1.0):
    """The posterior's KL of each dimension, of the linear VAE with the best ELBO of such data.

    The expectation over the data is closed: decoder ``w_i``, encoder ``m_i = a_i x_i`` and variance ``v_i``.
    """
    torch.manual_seed(0)
    w, a, log_v = (torch.nn.Parameter(0.1 * torch.ones(3).double()) for _ in range(3))
    optimizer = torch.optim.Adam([w, a, log_v], 0.02)
    for _ in range(2000):
        v = log_v.exp()
        squared = (1 - w * a).square() * VARIANCES + w.square() * v
        kl = 0.5 * (a.square() * VARIANCES + v - 1 - log_v)
        loss = (squared / (2 * noise**2) + beta * kl).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = VARIANCES.sqrt() * torch.randn(20_000, 3).double()
    q = DiagonalGaussian((a * x).detach(), log_v.detach().expand_as(x))
    return q.kl_to_standard_normal().mean(0)


@pytest.mark.parametrize(("noise", "active"), [(0.3, 3), (0.7, 2), (1.5, 1), (2.5, 0)])
def test_the_dimensions_that_survive_are_those_above_the_noise(noise, active):
    kl = trained(noise)
    assert int((noise**2 < VARIANCES).sum()) == active
    assert (kl[:active] > 0.01).all()
    assert (kl[active:] < 1e-4).all()


def test_a_survivor_knows_half_the_logarithm_of_its_signal_to_noise_ratio():
    assert torch.allclose(trained(0.7)[:2], 0.5 * (VARIANCES[:2] / 0.7**2).log(), atol=0.03)


def test_a_larger_beta_collapses_more_as_if_the_noise_were_larger():
    assert int((trained(0.7, beta=1.0) > 1e-4).sum()) == 2
    assert int((trained(0.7, beta=4.0) > 1e-4).sum()) == 1  # 4 * 0.49 is above 1
