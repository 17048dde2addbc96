"""Mutual information of sampled codes and factors, from entropies of the aggregate posterior."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from genlab.disentanglement.histograms import entropies, mutual_information_gap
from genlab.disentanglement.score import Score, value_ranks
from genlab.nets.gaussian import DiagonalGaussian

_CHUNK = 2**22  # densities held at once: memory stays flat


def mig_chen(posterior: DiagonalGaussian, factors: Tensor, num_samples: int, generator: Generator) -> Score:
    """The mutual information gap, estimated as by those who proposed it.

    Args:
        posterior: ``q(z|x)`` of the images, ``(N, D)``.
        factors: int64 ``(N, F)``.
        num_samples: of codes, for each entropy at most so many; Chen et al. take 10,000.
        generator: of the codes, on the CPU.

    They take all of dSprites' 737,280 images for ``N``, and leave its factor *shape* out of the mean. With
    fewer images the information is overestimated, see :func:`sampled_information`.

    References:
        Chen et al. 2018, "Isolating sources of disentanglement in variational autoencoders", section 4 and
        appendix C, and the code published with it.
    """
    information = sampled_information(posterior, factors, num_samples, generator)
    return mutual_information_gap(information, entropies(factors).to(information))


def sampled_information(
    posterior: DiagonalGaussian, factors: Tensor, num_samples: int, generator: Generator
) -> Tensor:
    """``I(z_j; v_k) = H(z_j) - H(z_j | v_k)`` of ``z ~ q(z|x)``, in nats ``(D, F)``, not below 0.

    One code is drawn for each image. ``H(z_j | v_k)`` is the mean, over the images, of the entropy among
    those that share their value of the factor.

    A code is always scored by a mixture that its own image is part of, which makes every entropy too small:
    the more so the fewer the images, hence more for ``H(z_j | v_k)`` than for ``H(z_j)``. The information is
    too large by about the share of the density at a code which its own image makes up: little where
    posteriors are wide, up to ``log V`` where ``N / V`` images have posteriors too narrow to overlap.
    """
    mean, log_var = posterior.mean, posterior.log_var
    noise = torch.randn(mean.shape, generator=generator).to(mean)
    order = torch.randperm(len(mean), generator=generator).to(mean.device)
    posterior = DiagonalGaussian(mean[order], log_var[order])  # so that the first of any part are random ones
    z, factors = posterior.mean + (0.5 * posterior.log_var).exp() * noise, factors.to(mean.device)[order]
    marginal = aggregate_entropy(z[:num_samples], posterior)
    conditional = [_conditional_entropy(z, posterior, column, num_samples) for column in factors.unbind(dim=1)]
    return (marginal[:, None] - torch.stack(conditional, dim=1)).clamp_(min=0)


def aggregate_entropy(z: Tensor, posterior: DiagonalGaussian) -> Tensor:
    """``-mean_s log (1/N sum_n q(z_j | x_n))`` of codes ``(S, D)`` and posteriors ``(N, D)``: nats ``(D,)``.

    >>> one = DiagonalGaussian(torch.zeros(1, 1), torch.zeros(1, 1))
    >>> aggregate_entropy(torch.zeros(1, 1), one)  # minus the log-density of N(0, 1) at its mean
    tensor([0.9189])
    """
    # Images last: the sum over them runs along memory.
    mixture = DiagonalGaussian(
        posterior.mean.T.contiguous()[:, None], posterior.log_var.T.contiguous()[:, None]
    )
    columns = z.T.contiguous()[..., None]
    total = torch.zeros(z.shape[1], device=z.device)
    for part in columns.split(max(1, _CHUNK // posterior.mean.numel()), dim=1):
        total -= torch.logsumexp(mixture.log_prob_per_dim(part), dim=2).sum(dim=1)
    return total / len(z) + math.log(len(posterior.mean))


def _conditional_entropy(z: Tensor, posterior: DiagonalGaussian, column: Tensor, num_samples: int) -> Tensor:
    """``H(z_j | v)`` of one factor ``(N,)``, nats ``(D,)``."""
    ranks, counts = value_ranks(column)
    total = torch.zeros(z.shape[1], device=z.device)
    for value, count in enumerate(counts.tolist()):
        same = ranks == value
        part = DiagonalGaussian(posterior.mean[same], posterior.log_var[same])
        total += count / len(z) * aggregate_entropy(z[same][:num_samples], part)
    return total
