"""Convolutional residual networks that keep the image's size."""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import is_parametrized

from genlab.config import Count, config
from genlab.nets.mlp import Activation, activation


@config
class ResNetConfig:
    """``num_blocks`` residual blocks of ``hidden_channels`` planes each."""

    name: Literal["resnet"] = "resnet"
    hidden_channels: Count = 64
    num_blocks: Count = 4
    activation: Activation = "gelu"
    """Between layers."""


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


class NormalizedResNet(nn.Sequential):
    """A residual network with batch norm before each ReLU and weights as direction and length, as asked for.

    ``(B, in_channels, H, W)`` -> ``(B, out_channels, H, W)``, zero at first. Blocks are those of
    :class:`ResidualBlock`.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP", section 3.7; Salimans & Kingma 2016, "Weight
        normalization", eq. 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int,
        num_blocks: int,
        batch_norm: bool,
        weight_norm: bool,
    ) -> None:
        width = hidden_channels
        # What batch norm follows needs no bias: it would be taken off again with the mean.
        conv = partial(_conv, bias=not batch_norm, weight_norm=weight_norm)
        last = _conv(width, out_channels, 3, bias=True, weight_norm=weight_norm)
        _start_at_zero(last)
        blocks = [
            _Residual(
                *_rectified(width, batch_norm),
                conv(width, width, 3),
                *_rectified(width, batch_norm),
                conv(width, width, 1),
            )
            for _ in range(num_blocks)
        ]
        super().__init__(conv(in_channels, width, 3), *blocks, *_rectified(width, batch_norm), last)


class _Residual(nn.Module):
    """``x + branch(x)``."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out


def _rectified(channels: int, batch_norm: bool) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU()] if batch_norm else [nn.ReLU()]


def _conv(in_channels: int, out_channels: int, kernel: int, *, bias: bool, weight_norm: bool) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)
    if weight_norm:
        parametrizations.weight_norm(conv)
    return conv


def _start_at_zero(conv: nn.Conv2d) -> None:
    """Weight and bias; of a normalised weight the length alone, for zero has no direction."""
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    if is_parametrized(conv, "weight"):
        length = conv.get_parameter("parametrizations.weight.original0")
        nn.init.zeros_(length)
    else:
        nn.init.zeros_(conv.weight)
