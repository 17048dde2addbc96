"""Encoders from images to vectors or feature maps, and decoders back."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from genlab.config import Count, Index, config
from genlab.errors import ConfigError
from genlab.nets.linear import Linear
from genlab.nets.mlp import MLP, Activation, MLPConfig, activation
from genlab.nets.resnet import ResidualBlock

Shape = tuple[int, int, int]
"""``(C, H, W)``."""


@config
class FeatureMapConfig:
    """A strided convolution for each of ``channels``, halving the image, and ``num_blocks`` residual blocks
    after it."""

    channels: Annotated[tuple[Count, ...], Field(min_length=1)] = (32, 64)
    num_blocks: Index = 0
    activation: Activation = "silu"
    """Between layers."""


@config
class ConvConfig(FeatureMapConfig):
    """A feature map, and a fully connected layer of ``hidden_dim`` units (0: none) between it and a code."""

    name: Literal["conv"] = "conv"
    hidden_dim: Index = 256


NetConfig = Annotated[MLPConfig | ConvConfig, Field(discriminator="name")]
"""What an encoder or a decoder is made of."""


class ConvDown(nn.Sequential):
    """``(B, C, H, W)`` -> ``(B, channels[-1], H // 2^n, W // 2^n)`` for ``n`` entries of ``channels``.

    Raises:
        ConfigError: the image is too small to be halved so often.
    """

    def __init__(self, config: FeatureMapConfig, shape: Shape) -> None:
        halvings = len(config.channels)
        in_channels, self.height, self.width = shape[0], shape[1] >> halvings, shape[2] >> halvings
        if not min(self.height, self.width):
            raise ConfigError(
                f"model: {halvings} strided convolutions are too many for {shape[1]}x{shape[2]} images; "
                "give fewer channels"
            )
        layers: list[nn.Module] = []
        for channels in config.channels:
            layers += [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1)]
            layers += [ResidualBlock(channels, config.activation) for _ in range(config.num_blocks)]
            layers += [activation(config.activation)]
            in_channels = channels
        super().__init__(*layers)
        self.out_shape = (in_channels, self.height, self.width)


class ConvUp(nn.Module):
    """``(B, channels[-1], ceil(H / 2^n), ceil(W / 2^n))`` -> ``(B, C, H, W)``: :class:`ConvDown` mirrored."""

    def __init__(self, config: FeatureMapConfig, shape: Shape) -> None:
        super().__init__()
        out_channels, self.height, self.width = shape
        doublings = len(config.channels)
        planes = [*reversed(config.channels), out_channels]
        self.in_shape = (planes[0], *(math.ceil(side / 2**doublings) for side in shape[1:]))
        layers: list[nn.Module] = []
        for channels, following in itertools.pairwise(planes):
            layers += [ResidualBlock(channels, config.activation) for _ in range(config.num_blocks)]
            if layers:
                layers += [activation(config.activation)]
            layers += [nn.ConvTranspose2d(channels, following, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, h: Tensor) -> Tensor:
        """Feature maps to images; what exceeds the image's size is cut off at the lower right."""
        x: Tensor = self.layers(h)
        return x[..., : self.height, : self.width]


def encoder(config: MLPConfig | ConvConfig, shape: Shape, out_dim: int) -> nn.Module:
    """Images ``(B, C, H, W)`` of ``shape`` -> ``(B, out_dim)``."""
    if isinstance(config, MLPConfig):
        return nn.Sequential(nn.Flatten(), MLP(config, math.prod(shape), out_dim))
    down = ConvDown(config, shape)
    return nn.Sequential(down, nn.Flatten(), *_dense(config, math.prod(down.out_shape), out_dim))


def decoder(config: MLPConfig | ConvConfig, in_dim: int, shape: Shape) -> nn.Module:
    """``(B, in_dim)`` -> images ``(B, C, H, W)`` of ``shape``."""
    if isinstance(config, MLPConfig):
        return nn.Sequential(MLP(config, in_dim, math.prod(shape)), nn.Unflatten(1, shape))
    up = ConvUp(config, shape)
    size = math.prod(up.in_shape)
    return nn.Sequential(
        *_dense(config, in_dim, size), activation(config.activation), nn.Unflatten(1, up.in_shape), up
    )


def _dense(config: ConvConfig, in_dim: int, out_dim: int) -> list[nn.Module]:
    if not config.hidden_dim:
        return [Linear(in_dim, out_dim)]
    return [
        Linear(in_dim, config.hidden_dim),
        activation(config.activation),
        Linear(config.hidden_dim, out_dim),
    ]
