"""Multi-scale RealNVP: masked convolutional couplings at several resolutions."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from genlab.config import Count, config
from genlab.likelihood import Alpha
from genlab.models.flow import Flow
from genlab.nets.batch_norm import InvertibleBatchNorm
from genlab.nets.bijections import Bijection, Compose, Flatten
from genlab.nets.couplings import ChannelCoupling, MaskedCoupling, ScaleAndShift
from genlab.nets.masks import checkerboard, upper_rows
from genlab.nets.multiscale import FactorOut, Size, SqueezeByPosition, check_scales, sizes
from genlab.nets.resnet import NormalizedResNet
from genlab.registry import MODELS
from genlab.types import DataSpec

Shape = tuple[int, int, int]
Couplings = Annotated[int, Ge(2)]
"""At least 2, so that every pixel is moved."""


@config
class RealNVPMultiscaleConfig:
    """Settings of :class:`RealNVPMultiscale`.

    The networks have ``num_blocks`` residual blocks of ``hidden_channels`` planes. ``batch_norm`` is for
    both, the networks and the outputs of couplings.
    """

    name: Literal["realnvp_multiscale"] = "realnvp_multiscale"
    num_scales: Count = 3
    couplings_before_squeeze: Couplings = 3
    couplings_after_squeeze: Couplings = 3
    couplings_at_last_scale: Couplings = 4
    masks: Literal["checkerboard", "halves"] = "checkerboard"
    hidden_channels: Count = 64
    num_blocks: Count = 2
    batch_norm: bool = True
    weight_norm: bool = True
    alpha: Alpha = 1e-6


@MODELS.register("realnvp_multiscale")
class RealNVPMultiscale(Flow):
    """At each scale couplings, a squeeze, couplings, and half of the channels leaves; at the last, couplings.

    ``masks`` says which halves condition each other, swapping from coupling to coupling:

    * ``checkerboard``: the colours of a checkerboard before the squeeze and at the last scale, the first and
      last channels after the squeeze, as in the paper;
    * ``halves``: the upper and the lower rows everywhere, what couplings are without a pattern.

    Raises:
        ConfigError: the images can't be halved for so many scales.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP", sections 3.4 to 3.7 and 4.1.
    """

    Config = RealNVPMultiscaleConfig

    def __init__(self, config: RealNVPMultiscaleConfig, spec: DataSpec) -> None:
        scales = [size for size in sizes(spec) if _has_two_halves(config, size)]
        check_scales(config.num_scales, len(scales), spec)
        # In eval(): the blank image by which the base class learns the codes' shape must move no statistics.
        super().__init__(spec, _scale(config, spec.shape, config.num_scales).eval(), config.alpha)
        self.train()
        self.config = config

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Codes ``(B, D)`` -> uint8 images, by running statistics in training too: a sample has no batch."""
        training = self.training
        self.eval()
        try:
            return super().decode(z)
        finally:
            self.train(training)


def _has_two_halves(config: RealNVPMultiscaleConfig, size: Size) -> bool:
    height, width = size
    return height > 1 or (width > 1 and config.masks == "checkerboard")


def _scale(config: RealNVPMultiscaleConfig, shape: Shape, num_scales: int) -> Bijection:
    """The last ``num_scales`` scales, from ``(B, C, H, W)`` to vectors."""
    if num_scales == 1:
        return Compose([*_masked(config, shape, config.couplings_at_last_scale), Flatten(shape)])
    channels, height, width = shape
    squeezed = (4 * channels, height // 2, width // 2)
    after = _by_channels if config.masks == "checkerboard" else _masked
    rest = _scale(config, (2 * channels, height // 2, width // 2), num_scales - 1)
    return Compose(
        [
            *_masked(config, shape, config.couplings_before_squeeze),
            SqueezeByPosition(),
            *after(config, squeezed, config.couplings_after_squeeze),
            FactorOut(rest, squeezed),
        ]
    )


def _masked(config: RealNVPMultiscaleConfig, shape: Shape, n: int) -> list[Bijection]:
    channels, height, width = shape
    mask = (checkerboard if config.masks == "checkerboard" else upper_rows)(height, width)
    parts: list[Bijection] = []
    for i in range(n):
        net = _net(config, channels + 1, channels)
        parts += [MaskedCoupling(net, 1 - mask if i % 2 else mask), *_norm(config, channels)]
    return parts


def _by_channels(config: RealNVPMultiscaleConfig, shape: Shape, n: int) -> list[Bijection]:
    channels = shape[0]
    parts: list[Bijection] = []
    for i in range(n):
        net = _net(config, channels // 2, channels // 2)
        parts += [ChannelCoupling(net, shows_first=i % 2 == 0), *_norm(config, channels)]
    return parts


def _net(config: RealNVPMultiscaleConfig, in_channels: int, channels: int) -> ScaleAndShift:
    net = NormalizedResNet(
        in_channels,
        2 * channels,
        config.hidden_channels,
        config.num_blocks,
        batch_norm=config.batch_norm,
        weight_norm=config.weight_norm,
    )
    return ScaleAndShift(net, channels)


def _norm(config: RealNVPMultiscaleConfig, channels: int) -> list[Bijection]:
    return [InvertibleBatchNorm(channels)] if config.batch_norm else []
