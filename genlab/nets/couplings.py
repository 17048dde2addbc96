"""Affine couplings of images by a pattern of pixels or by channels, with rescaled log-scales.

See Dinh et al. 2017, "Density estimation using Real NVP", sections 3.2 to 3.5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genlab.nets.bijections import Bijection


class ScaleAndShift(nn.Module):
    """The log-scale and the shift that a network reads: ``s = scale * tanh(raw)`` with a learned ``scale``.

    Args:
        net: from ``(B, in_channels, H, W)`` to ``(B, 2 * channels, H, W)``; a coupling starts as the identity
            where it starts at zero.
        channels: of what is to be scaled and shifted.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP", section 4.1.
    """

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.net = net
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scale and shift, ``(B, channels, H, W)`` each."""
        # Under autocast the network answers in bfloat16: eight bits are too few for a sum of log-scales.
        raw, shift = self.net(x).to(x.dtype).chunk(2, dim=1)
        return self.scale * torch.tanh(raw), shift


class MaskedCoupling(Bijection):
    """Pixels where ``mask`` is 0 are scaled and shifted by what is read in those where it is 1.

    ``y = m x + (1 - m) (x exp(s(m x)) + t(m x))``. The network sees the mask as a further channel: only so
    can it tell a pixel that is hidden from one that is zero.

    Args:
        net: reads ``C + 1`` channels, the last of them the mask.
        mask: ``(1, H, W)`` of ones and zeros, alike for all channels.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP", eq. 9.
    """

    mask: Tensor

    def __init__(self, net: ScaleAndShift, mask: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mask", mask, persistent=False)

    def _scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both zero where the mask is 1: there the map is the identity."""
        shown = torch.cat([self.mask * x, self.mask.expand(len(x), -1, -1, -1)], dim=1)
        log_scale, shift = self.net(shown)
        moved = 1 - self.mask
        return moved * log_scale, moved * shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One pass of the network gives map and log-determinant."""
        log_scale, shift = self._scale_and_shift(x)
        return x * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """As cheap as the map: what the network reads is there unchanged."""
        log_scale, shift = self._scale_and_shift(y)
        return (y - shift) * (-log_scale).exp()


class ChannelCoupling(Bijection):
    """One half of the channels is scaled and shifted by what is read in the other.

    The network works on the half that it is shown, not on a masked whole.

    Args:
        net: reads one half of the channels.
        shows_first: whether that is the first half; the second is then moved.
    """

    def __init__(self, net: ScaleAndShift, shows_first: bool) -> None:
        super().__init__()
        self.net, self.shows_first = net, shows_first

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.chunk(2, dim=1)
        return (first, second) if self.shows_first else (second, first)

    def _whole(self, shown: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([shown, moved] if self.shows_first else [moved, shown], dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One pass of the network gives map and log-determinant."""
        shown, moved = self._halves(x)
        log_scale, shift = self.net(shown)
        return self._whole(shown, moved * log_scale.exp() + shift), log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """As cheap as the map: what the network reads is there unchanged."""
        shown, moved = self._halves(y)
        log_scale, shift = self.net(shown)
        return self._whole(shown, (moved - shift) * (-log_scale).exp())
