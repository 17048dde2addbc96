"""Distances between the distributions of two sets of features: FID, and KID as torchmetrics computes it."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from genlab.errors import ConfigError, GenlabError

SUBSETS = 100
SUBSET_SIZE = 1000
_CHUNK = 4096  # features turned to float64 at once
_BLOCK = 256  # rows of a covariance computed at once


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

    >>> x = torch.randn(100, 3)
    >>> round(frechet_distance(x, x + torch.tensor([3.0, 4.0, 0.0])), 3)  # equal covariances: the squared shift
    25.0
    """
    _require("FID", real, fake)
    device = _float64_device(real)
    # Covariances come from sums of squares, which lose digits to a mean far from 0; where 0 is changes nothing.
    centre = real.to(device).mean(0, dtype=torch.float64)
    (mean, cov), (other_mean, other_cov) = (statistics(x.to(device), centre) for x in (real, fake))
    apart = (mean - other_mean).square().sum() + cov.trace() + other_cov.trace()
    # The eigenvalues of a small matrix are no work for a GPU.
    return max(0.0, apart.item() - 2 * _trace_of_root(cov.cpu(), other_cov.cpu()))  # below 0 by rounding alone


def statistics(features: Tensor, centre: Tensor, chunk: int = _CHUNK) -> tuple[Tensor, Tensor]:
    """Mean ``(D,)``, less ``centre``, and unbiased covariance ``(D, D)`` of features ``(N, D)``, float64.

    Of the covariance, which is symmetric, no more than the blocks on its diagonal and above are computed,
    ``chunk`` features at a time.

    >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> statistics(x, torch.zeros(2, dtype=torch.float64))
    (tensor([2., 0.], dtype=torch.float64), tensor([[2., 0.],
            [0., 0.]], dtype=torch.float64))
    """
    count, dim = features.shape
    total, squares = torch.zeros_like(centre), centre.new_zeros(dim, dim)
    for part in features.split(chunk):
        x = part.double() - centre
        total += x.sum(0)
        for start in range(0, dim, _BLOCK):
            squares[start : start + _BLOCK, start:].addmm_(x[:, start : start + _BLOCK].T, x[:, start:])
    mean = total / count
    upper = (squares.addr_(mean, mean, alpha=-count) / (count - 1)).triu_()
    return mean, upper + upper.triu(1).T


def _trace_of_root(a: Tensor, b: Tensor) -> float:
    """``tr((a b)^(1/2))`` of covariances ``(D, D)``.

    With ``a = r r'`` the product has the eigenvalues of ``r' b r``, which is symmetric: real numbers, below 0
    by rounding alone, that are found in a fraction of the time that a root of the product takes.
    """
    root, failed = torch.linalg.cholesky_ex(a)
    if failed:  # singular, as of fewer images than features
        values, vectors = torch.linalg.eigh(a)
        root = vectors * values.clamp(min=0).sqrt()
    return float(torch.linalg.eigvalsh(root.T @ b @ root).clamp(min=0).sqrt().sum())


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
    from torchmetrics.image.kid import KernelInceptionDistance  # seconds, which training should not wait for

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
