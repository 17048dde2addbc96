"""What a posterior tells of an image: KL by dimension, active units, mutual information."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genlab.nets.gaussian import DiagonalGaussian, GaussianMixture

ACTIVE = 0.01
"""Variance of the posterior's mean over images above which a dimension is active."""

_CHUNK = 2**22  # densities held at once: memory stays flat


def kl_per_dim(q: DiagonalGaussian) -> Tensor:
    """Mean over the images of ``KL(q(z_d|x) || N(0, 1))``, in nats ``(D,)``, whatever the model's prior.

    >>> kl_per_dim(DiagonalGaussian(torch.tensor([[0.0, 2.0], [0.0, -2.0]]), torch.zeros(2, 2)))
    tensor([0., 2.])
    """
    return q.kl_to_standard_normal().mean(0)


def active_units(q: DiagonalGaussian, threshold: float = ACTIVE) -> Tensor:
    """Which dimensions move with the image: ``Var_x(E[z_d|x]) > threshold``, bool ``(D,)``.

    References:
        Burda et al. 2016, "Importance weighted autoencoders", section 5.

    >>> active_units(DiagonalGaussian(torch.tensor([[0.0, 2.0], [0.0, -2.0]]), torch.zeros(2, 2)))
    tensor([False,  True])
    """
    return q.mean.var(0, correction=0) > threshold


def mutual_information(q: DiagonalGaussian) -> float:
    """``I(x; z)`` in nats, of one of the ``N`` images at random and its code: ``E[log q(z|x) - log q(z)]``.

    ``q(z)`` is the mixture of all ``N`` posteriors, each of which gives one code. That is the mean
    ``KL(q(z|x) || p(z))`` less ``KL(q(z) || p(z))``, for any prior. It can't exceed ``log N``: a result near
    that says that codes name their image, and that more images are needed to tell by how much.

    References:
        Hoffman & Johnson 2016, "ELBO surgery", eq. 6.
    """
    # Narrow posteriors cancel in single precision, and not every device has double.
    q = DiagonalGaussian(q.mean.double().cpu(), q.log_var.double().cpu())
    count = len(q.mean)
    aggregate = GaussianMixture(q, torch.full((count,), -math.log(count), dtype=torch.float64))
    z = q.rsample(1)[0]
    log_q = torch.cat([aggregate.log_prob(part) for part in z.split(max(1, _CHUNK // count))])
    return (q.log_prob(z) - log_q).mean().item()
