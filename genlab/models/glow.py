"""Glow: ActNorm, invertible 1x1 convolution and affine coupling, at several resolutions."""

from __future__ import annotations

from typing import Literal

from torch import nn

from genlab.config import Count, Positive, config
from genlab.likelihood import Alpha
from genlab.models.flow import Flow
from genlab.nets.bijections import ActNorm, AffineCoupling, Bijection, Compose, Flatten, Squeeze
from genlab.nets.invertible_conv import InvertibleConv1x1
from genlab.nets.multiscale import FactorOut, check_scales, sizes
from genlab.registry import MODELS
from genlab.types import DataSpec

Shape = tuple[int, int, int]


@config
class GlowConfig:
    """Settings of :class:`Glow`: the paper's ``L`` is ``num_scales``, its ``K`` is ``num_flows``."""

    name: Literal["glow"] = "glow"
    num_scales: Count = 2
    num_flows: Count = 8
    hidden_channels: Count = 64
    scale_bound: Positive = 2.0
    alpha: Alpha = 1e-6


@MODELS.register("glow")
class Glow(Flow):
    """At each scale a squeeze and ``num_flows`` steps; then half of the channels leaves, but for the last.

    What leaves is Gaussian given what goes on, with a mean and a scale that a convolution reads there: so in
    the authors' code, of which the paper says nothing.

    Raises:
        ConfigError: the images can't be halved for so many scales.

    References:
        Kingma & Dhariwal 2018, "Glow: generative flow with invertible 1x1 convolutions", section 3 and
        figure 2.
    """

    Config = GlowConfig

    def __init__(self, config: GlowConfig, spec: DataSpec) -> None:
        check_scales(config.num_scales, len(sizes(spec)) - 1, spec)
        super().__init__(spec, _scale(config, spec.shape, config.num_scales), config.alpha)
        self.config = config


def _scale(config: GlowConfig, shape: Shape, num_scales: int) -> Bijection:
    """The last ``num_scales`` scales, from ``(B, C, H, W)`` to vectors."""
    channels, height, width = shape
    squeezed = (4 * channels, height // 2, width // 2)
    steps = [part for _ in range(config.num_flows) for part in _step(config, 4 * channels)]
    return Compose([Squeeze(), *steps, *_end(config, squeezed, num_scales)])


def _step(config: GlowConfig, channels: int) -> list[Bijection]:
    """One step of flow: figure 2a."""
    half = channels // 2
    net = _net(half, config.hidden_channels, channels)
    return [ActNorm(channels), InvertibleConv1x1(channels), AffineCoupling(net, half, config.scale_bound)]


def _net(in_channels: int, hidden_channels: int, out_channels: int) -> nn.Sequential:
    """The network of section 5; :class:`AffineCoupling` sets its last layer to zero."""
    return nn.Sequential(
        nn.Conv2d(in_channels, hidden_channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(hidden_channels, hidden_channels, 1),
        nn.ReLU(),
        nn.Conv2d(hidden_channels, out_channels, 3, padding=1),
    )


def _end(config: GlowConfig, shape: Shape, num_scales: int) -> list[Bijection]:
    """The split, or the last scale's numbers as they are."""
    if num_scales == 1:
        return [Flatten(shape)]
    channels, height, width = shape
    half = channels // 2
    # (leaving - mean) / std, with both read in what goes on, is one more coupling, of a single convolution.
    conditional = nn.Sequential(nn.Conv2d(half, channels, 3, padding=1))
    rest = _scale(config, (half, height, width), num_scales - 1)
    return [AffineCoupling(conditional, half, config.scale_bound), FactorOut(rest, shape)]
