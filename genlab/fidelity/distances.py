"""Distances between the distributions of two sets of features: FID and KID, as torchmetrics computes them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from genlab.errors import ConfigError, GenlabError

SUBSETS = 100
SUBSET_SIZE = 1000
_CHUNK = 4096  # features turned to float64 at once


class _Given(nn.Module):
    """Passes features through, where torchmetrics has a network that makes them of images."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """FID: the squared distance of two Gaussians that have the features' means and covariances.

    It is biased upwards, the more so the fewer the images: at least as many as features are needed for a
    covariance that is not singular.

    Raises:
        ConfigError: fewer than two images of either kind.
        GenlabError: features that are not finite.

    References:
        Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash
        equilibrium", eq. 6.
    """
    # The root of the covariances' product is no work for a GPU, and torch's may come without it.
    return max(0.0, fed(real, fake, _CHUNK).cpu().compute().item())  # below 0 by rounding alone


def fed(real: Tensor, fake: Tensor, chunk: int) -> FrechetInceptionDistance:
    """torchmetrics' FID in float64 that has seen all features, ``chunk`` at a time; raises as the above."""
    _require("FID", real, fake)
    device = _float64_device(real)
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1])).to(device)
    # Covariances come from sums of squares, which lose digits to a mean far from 0; where 0 is changes nothing.
    centre = real.to(device).mean(0, dtype=torch.float64)
    for features, is_real in ((real, True), (fake, False)):
        for part in features.split(chunk):
            metric.update(part.to(device).double() - centre, real=is_real)
    return metric


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """KID: the squared maximum mean discrepancy, mean and standard deviation over 100 random subsets.

    The kernel is ``(x.y / D + 1) ** 3``. A subset has 1000 images of either kind, or as many as there are of
    the scarcer; torch's global generator draws them. The mean is unbiased, and may be below 0.

    Raises:
        ConfigError: fewer than two images of either kind.
        GenlabError: features that are not finite.

    References:
        Bińkowski et al. 2018, "Demystifying MMD GANs", section 4.
    """
    _require("KID", real, fake)
    device = _float64_device(real)
    size = min(SUBSET_SIZE, len(real), len(fake))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps all features, which are here anyway
        metric = KernelInceptionDistance(feature=_Given(real.shape[1]), subsets=SUBSETS, subset_size=size).to(
            device
        )
    metric.update(real.to(device).double(), real=True)
    metric.update(fake.to(device).double(), real=False)
    mean, std = metric.compute()
    return mean.item(), std.item()


def _require(what: str, real: Tensor, fake: Tensor) -> None:
    """Images enough, and features that are numbers."""
    if min(len(real), len(fake)) < 2:
        raise ConfigError(
            f"{what} takes at least 2 real images and 2 samples, and here are {len(real)} and {len(fake)}"
        )
    for name, features in (("real images", real), ("samples", fake)):
        if not features.isfinite().all():
            raise GenlabError(f"{what}: features of the {name} are not finite")


def _float64_device(features: Tensor) -> torch.device:
    """Where to compute in float64: Metal has none."""
    return torch.device("cpu") if features.device.type == "mps" else features.device
