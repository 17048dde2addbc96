"""Mutual information of binned codes and factors, and what is made of it: MIG and modularity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genlab.disentanglement.score import (
    MIN_STD,
    Score,
    active,
    mean_over_factors,
    top_two_gap,
    value_ranks,
)

NUM_BINS = 20


def bins(codes: Tensor, num_bins: int = NUM_BINS) -> Tensor:
    """The bin of each code, int64 ``(N, D)``: equally wide ones from each dimension's least to its greatest.

    A dimension that is constant has all its codes in one.

    >>> bins(torch.tensor([[0.0], [0.4], [1.0]]), num_bins=2)
    tensor([[0],
            [0],
            [1]])
    """
    codes = codes.double()
    low, high = codes.aminmax(dim=0)
    width = torch.where(high > low, high - low, 1.0)
    return ((codes - low) / width * num_bins).long().clamp_(max=num_bins - 1)


def entropies(factors: Tensor) -> Tensor:
    """Entropy of each factor among the images: ``(N, F)`` -> nats, float64 ``(F,)``.

    >>> entropies(torch.tensor([[0, 7], [1, 8], [0, 7], [1, 9]]))  # log 2, and half as much again
    tensor([0.6931, 1.0397], dtype=torch.float64)
    """
    return _entropies(_ranked(factors))


def mutual_information(codes: Tensor, factors: Tensor, num_bins: int = NUM_BINS) -> Tensor:
    """``I(bin of z_j; v_k)``, plugged in from the counts: nats, float64 ``(D, F)``.

    It is biased upwards by about ``(bins - 1) * (values - 1) / (2 N)``: 0.04 nats for 20 bins and 40 values
    among 10,000 images.

    >>> factor = torch.tensor([[0], [1], [0], [1]])
    >>> codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # the factor, and something else
    >>> mutual_information(codes, factor)
    tensor([[0.6931],
            [0.0000]], dtype=torch.float64)
    """
    return _informations(codes, _ranked(factors), num_bins)


def mig_hist20(codes: Tensor, factors: Tensor) -> Score:
    """The mutual information gap of codes in 20 bins.

    For each factor: by how much the dimension that knows most of it leads the next, as a share of the
    factor's entropy.

    References:
        Chen et al. 2018, "Isolating sources of disentanglement in variational autoencoders", for the gap;
        Locatello et al. 2019 for the estimator: histograms of the encoder's means for 10,000 images.

    >>> factor = torch.tensor([[0], [1], [0], [1]])
    >>> mig_hist20(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), factor).value
    1.0
    >>> mig_hist20(factor.float().expand(-1, 2), factor).value  # two dimensions that know the same
    0.0
    """
    ranked = _ranked(factors)
    return mutual_information_gap(_informations(codes, ranked, NUM_BINS), _entropies(ranked))


def mutual_information_gap(information: Tensor, entropy: Tensor) -> Score:
    """The gap from information ``(D, F)`` and the factors' entropies ``(F,)``, both in nats.

    >>> mutual_information_gap(torch.tensor([[0.75], [0.25]]), torch.tensor([1.0])).value
    0.5
    """
    return mean_over_factors(top_two_gap(information) / entropy)


def modularity(codes: Tensor, factors: Tensor, min_std: float = MIN_STD) -> Score:
    """Whether each dimension knows of one factor only: the mean over dimensions, 0 to 1.

    Of a dimension: one less the squared information on all factors but its best, relative to that of its
    best and ``F - 1``. Collapsed dimensions are left out, unlike in ``disentanglement_lib``, which counts the
    ratios of their spurious information; where all have collapsed the score is 0.

    References:
        Ridgeway & Mozer 2018, "Learning deep disentangled embeddings with the F-statistic loss"; information
        in 20 bins as by Locatello et al. 2019.

    >>> factors = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> modularity(factors.float(), factors).value  # each dimension is a factor
    1.0
    """
    squared = mutual_information(codes, factors)[active(codes, min_std)].square()
    if not len(squared):
        return Score(0.0)
    best = squared.amax(dim=1)
    # A dimension that varies and yet knows nothing at all has no best factor: 0, as in the library.
    spread = (squared.sum(dim=1) - best) / (best * (squared.shape[1] - 1)).clamp(min=1e-30)
    return Score(torch.where(best > 0, 1 - spread, 0.0).mean().item())


def _ranked(factors: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each factor :func:`value_ranks`."""
    return [value_ranks(column) for column in factors.unbind(1)]


def _entropies(ranked: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([_entropy(counts) for _, counts in ranked])


def _entropy(counts: Tensor) -> Tensor:
    """Entropy of the distribution in the last dimension of ``counts``, in nats."""
    p = counts.double() / counts.sum(dim=-1, keepdim=True)
    return -torch.xlogy(p, p).sum(dim=-1)


def _informations(codes: Tensor, ranked: list[tuple[Tensor, Tensor]], num_bins: int) -> Tensor:
    dims = torch.arange(codes.shape[1], device=codes.device)
    cells = (dims * num_bins + bins(codes, num_bins)).int()  # half as wide, counted in half the time
    return torch.stack([_information(cells, num_bins, *of_factor) for of_factor in ranked], dim=1)


def _information(cells: Tensor, num_bins: int, values: Tensor, value_counts: Tensor) -> Tensor:
    """Information of every dimension on one factor ``(N,)``: one count for all dimensions.

    ``cells`` number the bins of all dimensions through, int32 ``(N, D)``.
    """
    num_dims, num_values = cells.shape[1], len(value_counts)
    shape = (num_values, num_dims, num_bins)
    place = cells + values.int()[:, None] * (num_dims * num_bins)
    joint = torch.bincount(place.flatten(), minlength=math.prod(shape)).view(shape).transpose(0, 1)
    information = _entropy(joint.sum(dim=1)) + _entropy(value_counts) - _entropy(joint.flatten(1))
    return information.clamp_(min=0)
