"""What diffusion and flow matching share: a U-Net that sees a noisy image, its time and perhaps its class."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator

import torch
from torch import Generator, Tensor, nn

from genlab.config import NonNegative, OpenFraction, config
from genlab.errors import ConfigError
from genlab.likelihood import quantise
from genlab.models.base import Model
from genlab.nets.unet import UNet, UNetConfig
from genlab.types import DataSpec, SamplingStep

_MAX_ACTIVATIONS = 2**23  # numbers in the planes of the first level; with gradients some hundred such are held


@config
class ConditioningConfig:
    """Classes on demand: ``label_dropout`` of the training images lose their label, ``guidance`` weighs it.

    At ``guidance`` 1 samples are of the class as the model has learned it; above, they are more typical of it.
    """

    label_dropout: OpenFraction = 0.1
    guidance: NonNegative = 2.0


class DenoisingModel(Model):
    """A model of one network, from noisy images at times from 0 (the image) to 1 (noise).

    A conditional model also learns images without their label, which is what its likelihood is of.

    References:
        Ho & Salimans 2022, "Classifier-free diffusion guidance", eq. 6 (``guidance`` is their 1 + w).
    """

    def __init__(
        self, net: UNetConfig, conditioning: ConditioningConfig | None, spec: DataSpec, out_channels: int
    ) -> None:
        super().__init__(spec)
        self.conditioning = conditioning
        if conditioning is not None:
            if spec.num_classes is None:
                raise ConfigError("model.conditioning: the dataset has no labels; take model.conditioning=null")
            self.num_classes = spec.num_classes
        self.no_label = self.num_classes or 0
        self.unet = UNet(net, spec.channels, out_channels, self.no_label + 1 if self.num_classes else 0)

    @property
    def max_batch(self) -> int:
        """Fewer for a wider network, whose planes are what fills the memory."""
        return max(1, _MAX_ACTIVATIONS // (self.unet.config.channels * self.spec.height * self.spec.width))

    def graph_key(self, stage: str, step: int) -> Hashable:
        """All iterations are alike."""
        return stage

    def compiled(self) -> list[nn.Module]:
        """The network."""
        return [self.unet]

    def network(self, x: Tensor, time: Tensor, y: Tensor | None) -> Tensor:
        """The network's output in float32; of a conditional model without labels, that of no label."""
        if self.num_classes is not None and y is None:
            y = torch.full((len(x),), self.no_label, device=x.device)
        out: Tensor = self.unet(x, time, y)
        return out.to(x.dtype)

    def guided(self, x: Tensor, time: Tensor, y: Tensor | None) -> Tensor:
        """The network's output, led to the class ``y`` by ``guidance``; a variance in it is the class's."""
        guidance = 1.0 if self.conditioning is None else self.conditioning.guidance
        if y is None or guidance in (0, 1):
            return self.network(x, time, y if guidance else None)
        nothing = torch.full_like(y, self.no_label)
        both = self.network(torch.cat([x, x]), torch.cat([time, time]), torch.cat([y, nothing]))
        labelled, unlabelled = both.chunk(2)
        planes = self.spec.channels
        led = torch.lerp(unlabelled[:, :planes], labelled[:, :planes], guidance)
        return torch.cat([led, labelled[:, planes:]], dim=1)

    def training_labels(self, y: Tensor | None) -> Tensor | None:
        """Labels, some of them dropped in training; ``None`` of an unconditional model."""
        if self.conditioning is None or y is None:
            return None
        if not self.training:
            return y
        dropped = torch.rand(len(y), device=y.device) < self.conditioning.label_dropout
        return y.masked_fill(dropped, self.no_label)

    # ------------------------------------------------------------------ images

    def steps(self, noise: Tensor, y: Tensor | None, generator: Generator | None) -> Iterator[SamplingStep]:
        """From standard normal noise to images, step by step."""
        raise NotImplementedError

    @torch.no_grad()
    def sample_steps(
        self, n: int, y: Tensor | None = None, generator: Generator | None = None
    ) -> Iterator[SamplingStep]:
        """The way of ``n`` samples, of classes ``y`` where there are any, from noise (time 1) to images (0).

        Raises:
            ConfigError: labels for an unconditional model.
        """
        y = self.labels_to_draw(n, y, generator)
        noise = torch.randn(n, *self.spec.shape, device=self.device, generator=generator)
        for step in self.steps(noise, y, generator):
            yield SamplingStep(step.time, to_uint8(step.x), to_uint8(step.x0))

    def sample(self, n: int, y: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """``n`` images, uint8 ``(n, C, H, W)``: the end of :meth:`sample_steps`."""
        return deque(self.sample_steps(n, y, generator), maxlen=1).pop().x  # a chain is not to be kept


def to_uint8(x: Tensor) -> Tensor:
    """What lies on the axis of :func:`~genlab.likelihood.signed` as pixels; what is beyond it is clamped."""
    return quantise((x + 1) / 2)
