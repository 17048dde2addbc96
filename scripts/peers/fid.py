"""The arithmetic of FID: means, covariances and the Fréchet distance of two sets of features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genlab.fidelity.distances import frechet_distance
from peers import arithmetic
from peers.arithmetic import Function
from peers.contest import Entry, Setting, Size


@dataclass(frozen=True)
class FIDSize(Size):
    images: int = 10_000
    batch: int = 10_000
    steps: int = 1
    features: int = 2048


def features(size: FIDSize, seed: int) -> Tensor:
    """Correlated and skewed, as a network's are after a ReLU and a mean."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(64, size.features, generator=torch.Generator().manual_seed(0)) / 8
    codes = torch.randn(size.images, 64, generator=random) + 0.1 * seed
    return (codes @ mixing + torch.randn(size.images, size.features, generator=random)).relu()


def fidelity() -> Function:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    def distance(real: Tensor, fake: Tensor) -> float:
        parts = [fid_features_to_statistics(x.cpu()) for x in (real, fake)]
        return fid_statistics_to_metric(*parts, verbose=False)["frechet_inception_distance"]

    return distance


def torchmetrics() -> Function:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(nn.Module):
        """Hands features through, where the metric has a network."""

        num_features = 0

        def forward(self, x: Tensor) -> Tensor:
            return x

    def distance(real: Tensor, fake: Tensor) -> float:
        given = Given()
        given.num_features = real.shape[1]
        metric = FrechetInceptionDistance(feature=given).to(real.device)
        metric.update(real, real=True)
        metric.update(fake, real=False)
        return metric.compute().item()

    return distance


def entries(setting: Setting, size: FIDSize) -> dict[str, Entry]:
    loads = {"genlab": lambda: frechet_distance, "torch-fidelity": fidelity, "torchmetrics": torchmetrics}

    def given() -> tuple[Tensor, Tensor]:
        return features(size, 1).to(setting.device), features(size, 2).to(setting.device)

    return arithmetic.entries("distance", size.steps, given, loads)
