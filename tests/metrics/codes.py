"""Codes whose disentanglement is known."""

import torch

SIZES = (2, 2, 3, 4)


def grid(copies=20, sizes=SIZES):
    """Every combination of factors of ``sizes``, ``copies`` times, in random order: int64 ``(N, F)``."""
    factors = torch.cartesian_prod(*[torch.arange(size) for size in sizes]).repeat(copies, 1)
    return factors[torch.randperm(len(factors), generator=torch.Generator().manual_seed(0))]


def perfect(factors):
    """One dimension for each factor, permuted and rescaled, some upside down; ``(N, F)``."""
    scale = torch.tensor([-3.0, 0.5, 1.0, -0.7][: factors.shape[1]])
    return (factors * scale + 1)[:, torch.arange(factors.shape[1]).roll(1)].float()


def rotated(factors):
    """Pairs of dimensions turned by 45 degrees: both of a pair know as much of two factors."""
    codes = factors / factors.double().std(dim=0)
    turned = [codes[:, 0::2] + codes[:, 1::2], codes[:, 0::2] - codes[:, 1::2]]
    return torch.cat(turned, dim=1).float() / 2**0.5


def noise(factors, scale=1.0):
    """Dimensions that know nothing."""
    return scale * torch.randn(len(factors), 5, generator=torch.Generator().manual_seed(1))


def constant(factors):
    """Dimensions that never change."""
    return torch.full((len(factors), 5), 0.3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)
