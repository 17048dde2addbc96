"""Precision, recall, density and coverage: which samples are where real images are, and the other way round."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.errors import ConfigError

_CHUNK = 2**22  # distances at once: 32 MiB, and about as much again for what is made of them
_TOLERANCE = 1e-9  # of a squared radius: one pair's distance, computed twice, may differ in its last digits
_COPY = 1e-12  # of the squared lengths: what is nearer than this are copies of one image


def prdc(real: Tensor, fake: Tensor, k: int = 5, chunk: int = _CHUNK) -> dict[str, float]:
    """How far the supports of ``real`` and ``fake`` agree, each a union of balls around its features.

    The ball around a feature reaches to its ``k``-th nearest neighbour of the same kind, and is closed.

    * precision: the share of samples within a ball of a real image;
    * recall: the share of real images within a ball of a sample;
    * density: in how many balls of real images a sample is, on average, over ``k``: 1 where both have the
      same distribution, and more than that for samples that crowd where real images do;
    * coverage: the share of real images that have a sample in their ball.

    Unlike recall, coverage has balls of real images alone, so that a few far-off samples don't raise it.

    Args:
        real: ``(N, D)``.
        fake: ``(M, D)``, on the same device.
        k: Kynkäänniemi et al. take 3, Naeem et al. 5.
        chunk: distances in memory at once, besides one row's.

    Raises:
        ConfigError: ``k`` images or fewer of either kind.

    References:
        Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative models", eq.
        1 and 2; Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models", eq. 3-6.

    >>> x = torch.arange(10.0)[:, None]
    >>> prdc(x, x, k=1)
    {'precision': 1.0, 'recall': 1.0, 'density': 2.8, 'coverage': 1.0}
    >>> prdc(x, x + 100, k=1)
    {'precision': 0.0, 'recall': 0.0, 'density': 0.0, 'coverage': 0.0}
    """
    if min(len(real), len(fake)) <= k:
        raise ConfigError(
            f"prdc: k={k} takes more than {k} real images and samples, and here are {len(real)} and {len(fake)}"
        )
    # Float64 lets distances come from a matrix product, some ten times as fast as differences; Metal has none.
    device = torch.device("cpu") if real.device.type == "mps" else real.device
    centre = real.to(device).mean(0, dtype=torch.float64)
    real, fake = (features.to(device).double() - centre for features in (real, fake))
    real_radii, fake_radii = _radii(real, k, chunk), _radii(fake, k, chunk)
    precise, inside = 0, 0
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = recalled.clone()
    rows = _rows(len(real), chunk)
    for part, radii in zip(fake.split(rows), fake_radii.split(rows), strict=True):
        distances = _distances(part, real)
        in_real_ball = distances <= real_radii
        precise += int(in_real_ball.any(1).sum())
        inside += int(in_real_ball.sum())
        covered |= in_real_ball.any(0)
        recalled |= (distances <= radii[:, None]).any(0)
    return {
        "precision": precise / len(fake),
        "recall": int(recalled.sum()) / len(real),
        "density": inside / (k * len(fake)),
        "coverage": int(covered.sum()) / len(real),
    }


def _radii(features: Tensor, k: int, chunk: int) -> Tensor:
    """The squared distance to the ``k``-th nearest other feature, ``(N,)``."""
    parts = features.split(_rows(len(features), chunk))
    nearest = [_distances(part, features).topk(k + 1, largest=False).values for part in parts]
    return torch.cat(nearest)[:, -1] * (1 + _TOLERANCE)  # the nearest of k + 1 is the feature itself


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean and squared, ``(A, D)`` and ``(B, D)`` -> ``(A, B)``."""
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)
    squared = torch.addmm(lengths, a, b.T, alpha=-2)
    return squared.masked_fill_(squared < _COPY * lengths, 0.0)


def _rows(columns: int, chunk: int) -> int:
    return max(1, chunk // columns)
