"""The invertible 1x1 convolution of Glow: a learned mix of channels instead of a fixed permutation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genlab.nets.bijections import Bijection


class InvertibleConv1x1(Bijection):
    """``y = W x`` at each pixel, with ``W = P L (U + diag(s))``, at first a random rotation.

    ``P`` is a permutation and the signs of ``s`` are fixed, so that ``W`` stays invertible and
    ``log |det dy/dx| = H W sum log|s|`` takes no determinant.

    References:
        Kingma & Dhariwal 2018, "Glow: generative flow with invertible 1x1 convolutions", eqs. 9 to 11.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation.float())
        self.register_buffer("sign", diagonal.sign().float())
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())
        self.log_scale = nn.Parameter(diagonal.abs().log().float())

    def _factors(self) -> tuple[Tensor, Tensor]:
        """``L`` with its ones, and ``U + diag(s)``."""
        lower = self.lower.tril(-1) + torch.eye(len(self.lower), device=self.lower.device)
        return lower, self.upper.triu(1) + torch.diag(self.sign * self.log_scale.exp())

    def weight(self) -> Tensor:
        """``W`` ``(C, C)``."""
        lower, upper = self._factors()
        return self.permutation @ lower @ upper

    def _inverse_weight(self) -> Tensor:
        lower, upper = self._factors()
        half = torch.linalg.solve_triangular(lower, self.permutation.T, upper=False, unitriangular=True)
        inverse: Tensor = torch.linalg.solve_triangular(upper, half, upper=True)
        return inverse

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the channels of ``(B, C, H, W)``."""
        # Images are data here, not features: bfloat16 would round them, and the inverse could not mend it.
        with torch.autocast(x.device.type, enabled=False):
            y = F.conv2d(x, self.weight()[:, :, None, None])
        pixels = math.prod(x.shape[2:])
        return y, (pixels * self.log_scale.sum()).expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """Mix them back, by two triangular systems of the size of ``W``."""
        with torch.autocast(y.device.type, enabled=False):
            return F.conv2d(y, self._inverse_weight()[:, :, None, None])
