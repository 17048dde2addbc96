"""Vector quantisation: the nearest of a book of vectors, which follows what it is given by running k-means."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genlab.distributed import num_processes, of_first_process, sum_over_processes


def straight_through(z: Tensor, quantised: Tensor) -> Tensor:
    """``quantised``, exactly, whose gradient goes to ``z`` as if they were the same.

    References:
        Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons".

    >>> z = torch.tensor([0.2], requires_grad=True)
    >>> quantised = straight_through(z, torch.tensor([1.0]))
    >>> torch.autograd.grad(quantised.sum(), z), quantised.item()
    ((tensor([1.]),), 1.0)
    """
    return quantised.detach() + (z - z.detach())


class VectorQuantizer(nn.Module):
    """``num_codes`` vectors of ``dim`` numbers; ``codebook`` is the mean of what each was nearest to.

    The running numbers and sums of :meth:`update` forget with ``decay``. A code that is used less than
    ``restart_threshold`` times as often as if all were used alike starts anew from a vector of the batch
    (0: none does).

    References:
        van den Oord et al. 2017, "Neural discrete representation learning", appendix A.1; Dhariwal et al.
        2020, "Jukebox", section 3.1 (restarts).
    """

    codebook: Tensor
    cluster_size: Tensor
    cluster_sum: Tensor
    epsilon = 1e-5

    def __init__(self, num_codes: int, dim: int, decay: float, restart_threshold: float) -> None:
        super().__init__()
        self.decay, self.restart_threshold = decay, restart_threshold
        self.register_buffer("codebook", torch.randn(num_codes, dim))
        self.register_buffer("cluster_size", torch.ones(num_codes))
        self.register_buffer("cluster_sum", self.codebook.clone())

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """The code ``(...)``, int64, of each vector of ``z`` ``(..., D)``."""
        # Distances are differences of large numbers: bfloat16 would confuse neighbours.
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(self.codebook.dtype)
            distance = self.codebook.square().sum(1) - 2 * z @ self.codebook.T
        return distance.argmin(-1)

    def vectors(self, codes: Tensor) -> Tensor:
        """Codes ``(...)`` -> their vectors ``(..., D)``."""
        return F.embedding(codes, self.codebook)

    def usage(self, codes: Tensor) -> Tensor:
        """The share ``(K,)`` of each code in ``codes``."""
        return self._assignment(codes).mean(0)

    @torch.no_grad()
    def initialize(self, z: Tensor) -> None:
        """Begin at vectors of ``z`` ``(..., D)``, each taken once before any is taken twice."""
        z = z.flatten(0, -2)
        order = torch.randperm(len(z), device=z.device)
        self.codebook.copy_(z[order[torch.arange(len(self.codebook), device=z.device) % len(z)]])
        # Light at first, so that the codes keep up with encodings that are still on the move.
        weight = max(self.restart_threshold, 1 - self.decay)
        self.cluster_size.fill_(weight * len(z) / len(self.codebook))
        self.cluster_sum.copy_(self.codebook * self.cluster_size[:, None])

    @torch.no_grad()
    def update(self, z: Tensor, codes: Tensor) -> None:
        """Move towards ``z`` ``(..., D)``, of which ``codes`` ``(...)`` are the nearest."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.flatten(0, -2).to(self.codebook.dtype)
            assignment = self._assignment(codes)
            # A product, where index_add would sum in another order each time on a GPU. The codebook is that of
            # the batches of all processes, or theirs would part.
            sums = sum_over_processes(assignment.T @ torch.cat([z, z.new_ones(len(z), 1)], dim=1))
            self.cluster_size.lerp_(sums[:, -1], 1 - self.decay)
            self.cluster_sum.lerp_(sums[:, :-1], 1 - self.decay)
            self.codebook.copy_(self.cluster_sum / self._smoothed_size()[:, None])
        self._restart(z)

    def _assignment(self, codes: Tensor) -> Tensor:
        """One row for each code, 1 where it is that code: ``(N, K)``."""
        known = torch.arange(len(self.codebook), device=codes.device)
        return (codes.flatten()[:, None] == known).to(self.codebook.dtype)

    def _smoothed_size(self) -> Tensor:
        """Laplace smoothing: a code that was never used has a mean all the same."""
        total = self.cluster_size.sum()
        share = (self.cluster_size + self.epsilon) / (total + len(self.codebook) * self.epsilon)
        return share * total

    def _restart(self, z: Tensor) -> None:
        """Replace dead codes by vectors of ``z`` ``(N, D)``; one without use there dies at the next step."""
        least = self.restart_threshold * len(z) * num_processes() / len(self.codebook)
        dead = self.cluster_size < least
        fresh = of_first_process(z[torch.randint(len(z), (len(self.codebook),), device=z.device)])
        self.codebook.copy_(torch.where(dead[:, None], fresh, self.codebook))
        self.cluster_sum.copy_(torch.where(dead[:, None], least * fresh, self.cluster_sum))
        self.cluster_size.masked_fill_(dead, least)


def perplexity(usage: Tensor) -> Tensor:
    """``exp`` of the entropy of shares ``(K,)``: of how many codes a uniform choice would be as rich.

    >>> perplexity(torch.full((8,), 1 / 8)).round(decimals=4), perplexity(torch.tensor([1.0, 0.0]))
    (tensor(8.), tensor(1.))
    """
    entropy: Tensor = torch.special.entr(usage).sum()
    return entropy.exp()
