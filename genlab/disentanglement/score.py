"""What a measure gives, and what several of them share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_STD = 0.05
"""A dimension whose codes vary less than this, on the scale of a standard normal prior, has collapsed.

References:
    Locatello et al. 2019, as ``prune_dims.threshold`` of their FactorVAE score.
"""


@dataclass(frozen=True)
class Score:
    """A measure; ``per_factor`` are its parts, one for each factor, where it is made up of such."""

    value: float
    per_factor: tuple[float, ...] = ()


def mean_over_factors(parts: Tensor) -> Score:
    """The mean of ``parts`` ``(F,)``."""
    return Score(parts.mean().item(), tuple(parts.tolist()))


def top_two_gap(matrix: Tensor) -> Tensor:
    """For each factor, by how much the best dimension leads: ``(D, F)`` -> ``(F,)``.

    >>> top_two_gap(torch.tensor([[0.9, 0.2], [0.4, 0.2], [0.1, 0.0]]))
    tensor([0.5000, 0.0000])
    """
    best, second = matrix.topk(2, dim=0).values.unbind(0)
    return best - second


def active(codes: Tensor, min_std: float = MIN_STD) -> Tensor:
    """Which dimensions of ``codes`` ``(N, D)`` have not collapsed, bool ``(D,)``."""
    return codes.std(dim=0) >= min_std


def value_ranks(column: Tensor) -> tuple[Tensor, Tensor]:
    """The values of a factor, int64 ``(N,)``, as 0, 1, ... in their order, and how many have each ``(V,)``.

    >>> value_ranks(torch.tensor([7, 3, 7]))
    (tensor([1, 0, 1]), tensor([1, 2]))
    """
    low, high = column.aminmax()
    if high - low > len(column):
        _, ranks, counts = torch.unique(column, return_inverse=True, return_counts=True)
        return ranks, counts
    column = column - low  # counted, which takes a tenth of the time that sorting takes
    counts = torch.bincount(column)
    present = counts > 0
    return (present.cumsum(0) - 1).index_select(0, column), counts[present]
