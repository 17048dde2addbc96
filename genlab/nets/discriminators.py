"""From an image to one number: the discriminators and critics of adversarial models."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from genlab.config import Count, ProperFraction, config
from genlab.errors import ConfigError
from genlab.nets.autoencoder import Shape
from genlab.nets.generators import SLOPE, Channels, init_dcgan
from genlab.nets.linear import Linear
from genlab.nets.whole_image import ImageToPixel

Norm = Literal["none", "batch", "layer", "spectral"]
"""``layer``: over all planes of one image, with a scale for each plane; ``spectral``: of every weight."""
Conditioning = Literal["concat", "projection"]


class Body(NamedTuple):
    """The layers from images (``flat``: from vectors) to ``feature_dim`` features."""

    layers: nn.Sequential
    feature_dim: int
    flat: bool = False


@config
class DCGANDiscriminatorConfig:
    """A strided convolution for each of ``channels``, halving the image; one over all that is left, to
    ``feature_dim`` planes of one pixel. The first has no norm."""

    name: Literal["dcgan"] = "dcgan"
    channels: Channels = (64, 128, 256)
    feature_dim: Count = 512
    norm: Norm = "batch"

    def build(self, shape: Shape, extra: int) -> Body:
        """On images of ``shape`` and ``extra`` further planes."""
        layers = _dcgan(self, shape[0] + extra, _halved(shape, len(self.channels)))
        return Body(layers, self.feature_dim)


@config
class MLPDiscriminatorConfig:
    """Fully connected layers of so many units, with leaky ReLUs and dropout; the first has no norm."""

    name: Literal["mlp"] = "mlp"
    hidden_dims: Channels = (1024, 512, 256)
    """Units of each hidden layer."""
    dropout: ProperFraction = 0.3
    """Share of the units that are dropped in training."""
    norm: Norm = "none"

    def build(self, shape: Shape, extra: int) -> Body:
        """On images of ``shape`` and ``extra`` further numbers."""
        return Body(_mlp(self, math.prod(shape) + extra), self.hidden_dims[-1], flat=True)


@config
class ResNetDiscriminatorConfig:
    """A residual block for each of ``channels``, halving the image, and the sum over what is left of it."""

    name: Literal["resnet"] = "resnet"
    channels: Channels = (64, 128, 128)
    norm: Norm = "spectral"

    def build(self, shape: Shape, extra: int) -> Body:
        """On images of ``shape`` and ``extra`` further planes."""
        _halved(shape, len(self.channels))
        return Body(_resnet(self, shape[0] + extra), self.channels[-1])


DiscriminatorConfig = Annotated[
    DCGANDiscriminatorConfig | MLPDiscriminatorConfig | ResNetDiscriminatorConfig, Field(discriminator="name")
]


class Discriminator(nn.Module):
    """Images ``(B, C, H, W)``, and labels ``(B,)`` if it is conditional -> logits or a critic's values.

    Args:
        config: of the network.
        shape: of the images.
        num_classes: of the labels.
        conditioning: ``None``: it sees no labels. ``concat``: an embedding of ``label_dim`` numbers joins the
            input, as further numbers of a vector or as constant planes of an image (Mirza & Osindero 2014,
            "Conditional generative adversarial nets"). ``projection``: the inner product of an embedding
            with the features joins the output (Miyato & Koyama 2018, "cGANs with projection discriminator").
        label_dim: of the embedding that is concatenated.
    """

    def __init__(
        self,
        config: DiscriminatorConfig,
        shape: Shape,
        num_classes: int = 0,
        conditioning: Conditioning | None = None,
        label_dim: int = 0,
    ) -> None:
        super().__init__()
        self.conditioning, self.norm = conditioning, config.norm
        extra = label_dim if conditioning == "concat" else 0
        self.body, feature_dim, self.flat = config.build(shape, extra)
        self.head = Linear(feature_dim, 1)
        if conditioning is not None:
            self.label = nn.Embedding(num_classes, extra or feature_dim)
        if conditioning == "projection":
            nn.init.normal_(self.label.weight, 0.0, feature_dim**-0.5)  # so that no label outweighs the image
        if config.norm == "spectral":
            self._normalise_weights()

    def _normalise_weights(self) -> None:
        """Divide what an image is multiplied with by its largest singular value (Miyato et al. 2018, eq. 8)."""
        parts = [self.body, self.head] + ([self.label] if self.conditioning == "projection" else [])
        for layer in [layer for part in parts for layer in part.modules()]:
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                spectral_norm(layer)

    @property
    def mixes_images(self) -> bool:
        """Whether the value of an image depends on the others of its batch."""
        return self.norm == "batch"

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Values ``(B,)``, in float32."""
        if self.conditioning == "concat":
            x = self._joined(x, self.label(y))
        features = self.body(x)
        logits: Tensor = self.head(features).squeeze(1).float()
        if self.conditioning == "projection":
            logits = logits + (self.label(y) * features).sum(1).float()
        return logits

    def _joined(self, x: Tensor, embedded: Tensor) -> Tensor:
        if self.flat:
            return torch.cat([x.flatten(1), embedded.to(x.dtype)], dim=1)
        planes = embedded[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return torch.cat([x, planes.to(x.dtype)], dim=1)


def _dcgan(config: DCGANDiscriminatorConfig, in_channels: int, left: tuple[int, int]) -> nn.Sequential:
    """At 28x28: ``Conv(C, 64)``, ``Conv(64, 128)``, ``Conv(128, 256)``, k4 s2 p1; ``Conv(256, 512, k3)``.

    References:
        Radford et al. 2016, "Unsupervised representation learning with DCGANs", section 3.
    """
    first = nn.Conv2d(in_channels, config.channels[0], 4, stride=2, padding=1)
    layers: list[nn.Module] = [init_dcgan(first), nn.LeakyReLU(SLOPE)]
    bias = config.norm != "batch"  # which would take it out again
    for channels, following in itertools.pairwise(config.channels):
        conv = nn.Conv2d(channels, following, 4, stride=2, padding=1, bias=bias)
        layers += [init_dcgan(conv), *map(init_dcgan, _norm(config.norm, following)), nn.LeakyReLU(SLOPE)]
    conv = ImageToPixel(config.channels[-1], config.feature_dim, left, bias=bias)
    layers += [init_dcgan(conv), *map(init_dcgan, _norm(config.norm, config.feature_dim))]
    return nn.Sequential(*layers, nn.LeakyReLU(SLOPE), nn.Flatten())


def _mlp(config: MLPDiscriminatorConfig, in_dim: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for i, units in enumerate(config.hidden_dims):
        layers += [Linear(in_dim, units)]
        layers += _norm(config.norm, units, nn.BatchNorm1d) if i else []
        layers += [nn.LeakyReLU(SLOPE)] + ([nn.Dropout(config.dropout)] if config.dropout else [])
        in_dim = units
    return nn.Sequential(*layers)


def _resnet(config: ResNetDiscriminatorConfig, in_channels: int) -> nn.Sequential:
    """Residual blocks, and the sum over what is left of the image.

    References:
        Gulrajani et al. 2017, "Improved training of Wasserstein GANs", appendix F; Miyato et al. 2018,
        "Spectral normalization for generative adversarial networks", appendix B.4; the widths are ours.
    """
    planes = [in_channels, *config.channels]
    blocks = [
        _DownBlock(a, b, config.norm, first=i == 0) for i, (a, b) in enumerate(itertools.pairwise(planes))
    ]
    return nn.Sequential(*blocks, nn.ReLU(), _SumPool())


class _DownBlock(nn.Module):
    """``(B, in_channels, H, W)`` -> ``(B, out_channels, H // 2, W // 2)``; the first begins without a ReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm, first: bool) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(in_channels, out_channels, 1))
        before = [] if first else [*_norm(norm, in_channels), nn.ReLU()]
        self.branch = nn.Sequential(
            *before,
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            *_norm(norm, out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.AvgPool2d(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The mean of neighbours, and what the branch adds."""
        out: Tensor = self.shortcut(x) + self.branch(x)
        return out


class _SumPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C)``."""
        return x.sum((2, 3))


def _halved(shape: Shape, times: int) -> tuple[int, int]:
    """Height and width after so many halvings.

    Raises:
        ConfigError: nothing is left.
    """
    left = (shape[1] >> times, shape[2] >> times)
    if not min(left):
        raise ConfigError(
            f"model.discriminator.channels: {times} halvings are too many for {shape[1]}x{shape[2]} images; "
            "give fewer"
        )
    return left


def _norm(norm: Norm, planes: int, batch_norm: type[nn.Module] = nn.BatchNorm2d) -> list[nn.Module]:
    """The layer that normalises, if there is one."""
    if norm == "batch":
        return [batch_norm(planes)]
    # A group norm of one group: layer norm that doesn't depend on the image's size.
    return [nn.GroupNorm(1, planes)] if norm == "layer" else []
