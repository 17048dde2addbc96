"""Batch normalisation as a layer of a flow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genlab.nets.bijections import Bijection


class InvertibleBatchNorm(Bijection):
    """``y = (x - mean) / sqrt(variance + eps)`` for each channel of images ``(B, C, H, W)``.

    In training the statistics are those of the batch, and gradients flow through them; in ``eval()`` they are
    running averages. The log-determinant is that of the rescaling by the statistics in use, held fixed: it
    leaves out that in training each image moves them a little, as the paper does. There is no learned scale
    and shift: the couplings around it have theirs.

    The paper averages the statistics of recent batches in training too (appendix E), for batches of very few
    images; with a hundred images of many pixels each they would only lag. A model of averaged weights takes
    over the running averages of the live one, which fit it once weights change little.

    Args:
        channels: of the images.
        momentum: weight of the newest batch in the running averages.
        eps: added to the variance.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP", section 3.7.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("variance", torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise; in training the running averages move."""
        mean, variance = self._of_batch(x) if self.training else (self.mean, self.variance)
        if self.training:
            self._move_towards(mean, variance, self.momentum)
        log_scale = -0.5 * (variance + self.eps).log()
        pixels = math.prod(x.shape[2:])
        return (x - mean) * log_scale.exp(), (pixels * log_scale.sum()).expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """By the running averages: no batch of images is there to take statistics of."""
        return y * (self.variance + self.eps).sqrt() + self.mean

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        """Start the running averages at the first batch, not at zero and one."""
        self._move_towards(*self._of_batch(x), 1.0)
        return super().initialize(x)

    def _of_batch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        return mean[:, None, None], variance[:, None, None]

    @torch.no_grad()
    def _move_towards(self, mean: Tensor, variance: Tensor, weight: float) -> None:
        self.mean.lerp_(mean, weight)
        self.variance.lerp_(variance, weight)
