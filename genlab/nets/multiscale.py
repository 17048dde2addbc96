"""The multi-scale architecture of flows: squeeze, and let half of the numbers leave at each scale.

See Dinh et al. 2017, "Density estimation using Real NVP", section 3.6.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genlab.errors import ConfigError
from genlab.nets.bijections import Bijection
from genlab.types import DataSpec

Size = tuple[int, int]


class SqueezeByPosition(Bijection):
    """``(B, C, H, W)`` -> ``(B, 4C, H/2, W/2)``: each 2x2 square of pixels becomes four channels.

    Channel ``k C + c`` holds pixel ``k`` (row by row) of the square in channel ``c``, so that halves of the
    new channels are the even and the odd rows in every old one, and not a checkerboard's colours again.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Space to channels; ``H`` and ``W`` are even."""
        B, C, H, W = x.shape
        squares = x.view(B, C, H // 2, 2, W // 2, 2)
        return squares.permute(0, 3, 5, 1, 2, 4).reshape(B, 4 * C, H // 2, W // 2), x.new_zeros(B)

    def inverse(self, y: Tensor) -> Tensor:
        """Channels to space."""
        B, C, H, W = y.shape
        positions = y.reshape(B, 2, 2, C // 4, H, W)
        return positions.permute(0, 3, 4, 1, 5, 2).reshape(B, C // 4, 2 * H, 2 * W)


class FactorOut(Bijection):
    """The second half of the channels leaves; the first goes on through ``rest``.

    ``(B, C, H, W)`` -> ``(B, C H W)``: first what leaves here, flattened, then what ``rest`` makes of the
    other half.

    Args:
        rest: from ``(B, C / 2, H, W)`` to vectors.
        shape: ``(C, H, W)`` of what comes in; ``C`` is even.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP", section 3.6.
    """

    def __init__(self, rest: Bijection, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        self.rest, self.leaving = rest, (channels // 2, height, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The log-determinant is that of ``rest``."""
        stays, leaves = x.chunk(2, dim=1)
        z, log_det = self.rest(stays)
        return torch.cat([leaves.flatten(1), z], dim=1), log_det

    def inverse(self, y: Tensor) -> Tensor:
        """What left joins what ``rest`` gives back."""
        leaves, z = y.chunk(2, dim=1)
        return torch.cat([self.rest.inverse(z), leaves.view(-1, *self.leaving)], dim=1)

    def initialize(self, x: Tensor) -> Tensor:
        """``rest`` sees the half that it is given."""
        stays, leaves = x.chunk(2, dim=1)
        return torch.cat([leaves.flatten(1), self.rest.initialize(stays)], dim=1)


def sizes(spec: DataSpec) -> list[Size]:
    """Height and width of the images, halved as long as both are even: the scales that there can be."""
    found = [(spec.height, spec.width)]
    while found[-1][0] % 2 == found[-1][1] % 2 == 0:
        height, width = found[-1]
        found.append((height // 2, width // 2))
    return found


def check_scales(num_scales: int, most: int, spec: DataSpec) -> None:
    """Nothing, where ``spec`` has room for ``num_scales``.

    Raises:
        ConfigError: ``num_scales`` is more than ``most``.
    """
    if num_scales <= most:
        return
    way_out = f"take model.num_scales={most} or" if most else "take"
    unit = 2**num_scales
    fitting = unit * math.ceil(max(spec.height, spec.width) / unit)
    raise ConfigError(
        f"model.num_scales={num_scales}: images of {spec} have room for {most or 'none'}; "
        f"{way_out} another dataset.image_size, {fitting} for instance"
    )
