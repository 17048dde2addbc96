"""The arithmetic of MIG with histograms of 20 bins, against disent's; both are given codes and factors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from genlab.disentanglement.histograms import mig_hist20
from peers import arithmetic
from peers.arithmetic import Function
from peers.contest import Entry, Setting, Size

VALUES = torch.tensor([3, 6, 40, 32, 32])
"""How many values each of dSprites' factors has."""


@dataclass(frozen=True)
class MIGSize(Size):
    images: int = 10_000
    batch: int = 10_000
    steps: int = 10
    codes: int = 10


def codes_and_factors(size: MIGSize) -> tuple[Tensor, Tensor]:
    """Codes with noise: the first ones know of one factor each, the others of none."""
    random = torch.Generator().manual_seed(0)
    factors = (torch.rand(size.images, len(VALUES), generator=random) * VALUES).long()
    codes = 0.3 * torch.randn(size.images, size.codes, generator=random)
    codes[:, : len(VALUES)] += factors / VALUES
    return codes, factors


def ours() -> Function:
    return lambda codes, factors: mig_hist20(codes, factors).value


def disent() -> Function:
    from disent.metrics import _mig

    def score(codes: Tensor, factors: Tensor) -> float:
        # What disent computes once images are encoded; its arrays have a row for each code and each factor.
        return float(_mig._compute_mig(codes.T.numpy(), factors.T.numpy())["mig.discrete_score"])

    return score


def entries(setting: Setting, size: MIGSize) -> dict[str, Entry]:
    loads = {"genlab": ours, "disent": disent}
    return arithmetic.entries("score", size.steps, partial(codes_and_factors, size), loads)
