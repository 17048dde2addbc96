"""From a code to an image: the generators of adversarial models."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from genlab.config import Count, config
from genlab.nets.autoencoder import Shape
from genlab.nets.linear import Linear
from genlab.nets.whole_image import PixelToImage

Channels = Annotated[tuple[Count, ...], Field(min_length=1)]
SLOPE = 0.2
"""Of every leaky ReLU: Radford et al. 2016, section 4."""


@config
class _GeneratorConfig:
    """``output`` squashes pixels into [0, 1] (sigmoid) or [-1, 1] (tanh); real images are brought there too."""

    output: Literal["sigmoid", "tanh"] = "sigmoid"

    def squash(self) -> nn.Module:
        """The last layer."""
        return nn.Sigmoid() if self.output == "sigmoid" else nn.Tanh()

    def build(self, in_dim: int, shape: Shape) -> nn.Module:
        """``(B, in_dim)`` -> images ``(B, C, H, W)`` of ``shape``, squashed."""
        raise NotImplementedError


@config
class DCGANGeneratorConfig(_GeneratorConfig):
    """A transposed convolution from the code to ``channels[0]`` planes, then one for each doubling."""

    name: Literal["dcgan"] = "dcgan"
    channels: Channels = (128, 64)

    def build(self, in_dim: int, shape: Shape) -> nn.Module:
        """A :class:`DCGANGenerator`."""
        return DCGANGenerator(self, in_dim, shape)


@config
class MLPGeneratorConfig(_GeneratorConfig):
    """Fully connected layers of so many units, with leaky ReLUs and, if asked for, batch norm."""

    name: Literal["mlp"] = "mlp"
    hidden_dims: Channels = (256, 512, 1024)
    """Units of each hidden layer."""
    batch_norm: bool = False

    def build(self, in_dim: int, shape: Shape) -> nn.Module:
        """A :class:`MLPGenerator`."""
        return MLPGenerator(self, in_dim, shape)


@config
class ResNetGeneratorConfig(_GeneratorConfig):
    """A fully connected layer to ``channels[0]`` planes, then a residual block for each doubling."""

    name: Literal["resnet"] = "resnet"
    channels: Channels = (128, 128, 64)

    def build(self, in_dim: int, shape: Shape) -> nn.Module:
        """A :class:`ResNetGenerator`."""
        return ResNetGenerator(self, in_dim, shape)


GeneratorConfig = Annotated[
    DCGANGeneratorConfig | MLPGeneratorConfig | ResNetGeneratorConfig, Field(discriminator="name")
]


class _Crop(nn.Module):
    """``(B, C, H', W')`` -> ``(B, C, H, W)``: cuts off what doubling has made too much."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.height, self.width = shape[1:]

    def forward(self, x: Tensor) -> Tensor:
        """The upper left."""
        return x[..., : self.height, : self.width]


class DCGANGenerator(nn.Sequential):
    """Transposed convolutions with batch norm and ReLU, without biases where batch norm takes them out again.

    Of 28x28 images: ``ConvT(D, 128, k7 s1 p0)``, ``ConvT(128, 64, k4 s2 p1)``, ``ConvT(64, C, k4 s2 p1)``.

    References:
        Radford et al. 2016, "Unsupervised representation learning with deep convolutional generative
        adversarial networks", section 3.
    """

    def __init__(self, config: DCGANGeneratorConfig, in_dim: int, shape: Shape) -> None:
        first, doublings = config.channels[0], len(config.channels)
        height, width = (math.ceil(side / 2**doublings) for side in shape[1:])
        layers: list[nn.Module] = [
            nn.Unflatten(1, (in_dim, 1, 1)),
            PixelToImage(in_dim, first, (height, width)),
        ]
        for channels, following in itertools.pairwise([*config.channels, shape[0]]):
            last = len(layers) == 2 + 3 * (doublings - 1)
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            layers += [nn.ConvTranspose2d(channels, following, 4, stride=2, padding=1, bias=last)]
        super().__init__(*layers, _Crop(shape), config.squash())
        for layer in self:
            init_dcgan(layer)


class MLPGenerator(nn.Sequential):
    """Fully connected."""

    def __init__(self, config: MLPGeneratorConfig, in_dim: int, shape: Shape) -> None:
        layers: list[nn.Module] = []
        for i, units in enumerate(config.hidden_dims):
            layers += [Linear(in_dim, units)]
            layers += [nn.BatchNorm1d(units)] if config.batch_norm and i else []
            layers += [nn.LeakyReLU(SLOPE)]
            in_dim = units
        super().__init__(*layers, Linear(in_dim, math.prod(shape)), nn.Unflatten(1, shape), config.squash())


class ResNetGenerator(nn.Sequential):
    """Residual blocks with batch norm.

    References:
        Gulrajani et al. 2017, "Improved training of Wasserstein GANs", appendix F; the widths are ours.
    """

    def __init__(self, config: ResNetGeneratorConfig, in_dim: int, shape: Shape) -> None:
        first, last = config.channels[0], config.channels[-1]
        doublings = len(config.channels) - 1
        start = (first, *(math.ceil(side / 2**doublings) for side in shape[1:]))
        super().__init__(
            Linear(in_dim, math.prod(start)),
            nn.Unflatten(1, start),
            *(_UpBlock(a, b) for a, b in itertools.pairwise(config.channels)),
            nn.BatchNorm2d(last),
            nn.ReLU(),
            nn.Conv2d(last, shape[0], 3, padding=1),
            _Crop(shape),
            config.squash(),
        )


class _UpBlock(nn.Module):
    """``(B, in_channels, H, W)`` -> ``(B, out_channels, 2H, 2W)``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.Upsample(scale_factor=2))
        self.branch = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The nearest neighbour doubled, and what the branch adds."""
        out: Tensor = self.shortcut(x) + self.branch(x)
        return out


def init_dcgan(module: nn.Module) -> nn.Module:
    """``module`` with kernels from N(0, 0.02) or scales from N(1, 0.02): Radford et al. 2016, section 4."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    return module
