"""The arithmetic of MIG with histograms of 20 bins, against disent's; both are given codes and factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from genlab.disentanglement.histograms import mig_hist20
from peers.contest import Contestant, Entry, Setting, Size, Task

VALUES = torch.tensor([3, 6, 40, 32, 32])
"""How many values each of dSprites' factors has."""
Score = Callable[[Tensor, Tensor], float]


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


def ours() -> Score:
    return lambda codes, factors: mig_hist20(codes, factors).value


def disent() -> Score:
    from disent.metrics import _mig

    def score(codes: Tensor, factors: Tensor) -> float:
        # What disent computes once images are encoded; its arrays have a row for each code and each factor.
        return float(_mig._compute_mig(codes.T.numpy(), factors.T.numpy())["mig.discrete_score"])

    return score


def contestant(name: str, load: Callable[[], Score], setting: Setting, size: MIGSize) -> Contestant:
    score = load()
    codes, factors = codes_and_factors(size)

    def run() -> float:
        return [score(codes, factors) for _ in range(size.steps)][-1]

    return Contestant(name, {"score": Task(run, size.steps)})


def entries(setting: Setting, size: MIGSize) -> dict[str, Entry]:
    loads = {"genlab": ours, "disent": disent}
    return {name: partial(contestant, name, load, setting, size) for name, load in loads.items()}
