"""Convolutional residual networks that keep the image's size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from genlab.config import Count, config
from genlab.nets.mlp import Activation, activation


@config
class ResNetConfig:
    """``num_blocks`` residual blocks of ``hidden_channels`` planes each."""

    name: Literal["resnet"] = "resnet"
    hidden_channels: Count = 64
    num_blocks: Count = 4
    activation: Activation = "gelu"


class ResidualBlock(nn.Module):
    """Pre-activation block: ``x + conv1x1(act(conv3x3(act(x))))``.

    References:
        He et al. 2016, "Identity mappings in deep residual networks", figure 1b.
    """

    def __init__(self, channels: int, act: Activation) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            activation(act),
            nn.Conv2d(channels, channels, 3, padding=1),
            activation(act),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same."""
        out: Tensor = x + self.branch(x)
        return out


class ResNet(nn.Sequential):
    """``(B, in_channels, H, W)`` -> ``(B, out_channels, H, W)``."""

    def __init__(self, config: ResNetConfig, in_channels: int, out_channels: int) -> None:
        width = config.hidden_channels
        super().__init__(
            nn.Conv2d(in_channels, width, 3, padding=1),
            *(ResidualBlock(width, config.activation) for _ in range(config.num_blocks)),
            activation(config.activation),
            nn.Conv2d(width, out_channels, 3, padding=1),
        )
