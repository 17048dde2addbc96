"""Generative adversarial networks: a generator, a discriminator, and what each of them minimises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from genlab.adversarial import LossConfig, gradient_penalty, squared_gradient
from genlab.config import Count, config
from genlab.errors import ConfigError
from genlab.likelihood import to_nearest_level, to_unit
from genlab.models.base import Model
from genlab.nets.discriminators import Conditioning, Discriminator, DiscriminatorConfig
from genlab.nets.generators import GeneratorConfig
from genlab.nets.noise import NoiseConfig
from genlab.registry import MODELS
from genlab.types import Batch, DataSpec, Stage, Update


@config
class GANConfig:
    """Settings of :class:`GAN`.

    The discriminator steps at every batch, the generator at every ``n_critic``-th. ``conditioning`` is how the
    discriminator sees labels; the generator gets them as ``label_dim`` numbers beside the noise.
    """

    name: Literal["gan"] = "gan"
    latent_dim: Count = 100
    """Dimensions of the noise."""
    noise: NoiseConfig
    generator: GeneratorConfig
    discriminator: DiscriminatorConfig
    loss: LossConfig
    n_critic: Count = 1
    conditioning: Conditioning | None = None
    label_dim: Count = 10


@MODELS.register("gan")
class GAN(Model):
    """An image is ``G(z)``; ``D`` learns to tell it from a real one, and ``G`` to mislead ``D``.

    WGAN, WGAN-GP and the conditional GAN differ from it by their settings alone.

    Real and generated images go through ``D`` in one pass where it judges each image by itself. Batch norm
    would mix the two, and ``D`` could tell a batch by its statistics alone: there they go separately, as in
    Radford et al. 2016. Both steps of an iteration use the same generated images; ``G`` has not moved between.

    References:
        Goodfellow et al. 2014, "Generative adversarial nets"; Mirza & Osindero 2014, "Conditional generative
        adversarial nets".
    """

    Config = GANConfig

    def __init__(self, config: GANConfig, spec: DataSpec) -> None:
        super().__init__(spec)
        self.config, self.loss, conditioning = config, config.loss, config.conditioning
        label_dim = 0
        if conditioning is not None:
            self.num_classes, label_dim = _num_classes(spec), config.label_dim
            self.label = nn.Embedding(self.num_classes, label_dim)
        self.generator = config.generator.build(config.latent_dim + label_dim, spec.shape)
        self.discriminator = Discriminator(
            config.discriminator, spec.shape, self.num_classes or 0, conditioning, label_dim
        )
        self._check()

    def _check(self) -> None:
        loss = self.loss
        if self.discriminator.mixes_images and (loss.gradient_penalty or loss.r1):
            raise ConfigError(
                "model.loss: a gradient penalty is of one image at a time, and batch norm mixes those of a "
                "batch; take model.discriminator.norm=layer, spectral or none"
            )
        constrained = loss.weight_clip or loss.gradient_penalty or self.discriminator.norm == "spectral"
        if loss.name == "wasserstein" and not constrained:
            raise ConfigError(
                "model.loss: a Wasserstein critic has to be constrained; set model.loss.weight_clip, "
                "model.loss.gradient_penalty or model.discriminator.norm=spectral"
            )

    # ------------------------------------------------------------------ images

    def generate(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Codes ``(B, D)`` and labels ``(B,)`` -> images ``(B, C, H, W)`` on the generator's scale."""
        images: Tensor = self.generator(z if y is None else torch.cat([z, self.label(y)], dim=1))
        return images

    def _noise(self, n: int, generator: Generator | None = None) -> Tensor:
        return self.config.noise.sample(n, self.config.latent_dim, self.device, generator)

    @property
    def _signed(self) -> bool:
        return self.config.generator.output == "tanh"

    def _scaled(self, x: Tensor) -> Tensor:
        """Uint8 -> the scale of the generator's output."""
        return 2 * to_unit(x) - 1 if self._signed else to_unit(x)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """``n`` images, uint8 ``(n, C, H, W)``, of classes ``y`` ``(n,)``, or of any where there are classes.

        Raises:
            ConfigError: labels for a model that knows none.
        """
        y = self.labels_to_draw(n, y, generator)
        images = self.generate(self._noise(n, generator), y)
        return to_nearest_level((images + 1) / 2 if self._signed else images)

    # ------------------------------------------------------------------ training

    def stages(self) -> Sequence[Stage]:
        """One, of two groups."""
        discriminator = list(self.discriminator.parameters())
        return [
            Stage(
                "train",
                {"discriminator": discriminator, "generator": self.parameters_outside(self.discriminator)},
            )
        ]

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        """``discriminator``; ``generator`` after every ``n_critic``-th, seeing the one that has stepped."""
        generator_steps = self.graph_key(stage, step)
        y = None if self.num_classes is None else batch.y
        with torch.set_grad_enabled(generator_steps and torch.is_grad_enabled()):
            fake = self.generate(self._noise(len(batch.x)), y)
        yield self._discriminator_update(self._scaled(batch.x), fake.detach(), y)
        self._clip()
        if generator_steps:
            yield Update("generator", self.loss.generator(self.discriminator(fake, y)), {})

    def graph_key(self, stage: str, step: int) -> bool:
        """Whether the generator steps too."""
        return (step + 1) % self.config.n_critic == 0

    def _discriminator_update(self, real: Tensor, fake: Tensor, y: Tensor | None) -> Update:
        on_real, on_fake = self._judge(real, fake, y)
        loss = self.loss.discriminator(on_real, on_fake)
        logs = {"d_real": self.loss.opinion(on_real).mean(), "d_fake": self.loss.opinion(on_fake).mean()}
        if self.loss.gradient_penalty:
            logs["gradient_penalty"] = gradient_penalty(lambda x: self.discriminator(x, y), real, fake.float())
            loss = loss + self.loss.gradient_penalty * logs["gradient_penalty"]
        if self.loss.r1:
            logs["r1"] = squared_gradient(lambda x: self.discriminator(x, y), real).mean() / 2
            loss = loss + self.loss.r1 * logs["r1"]
        return Update("discriminator", loss, logs)

    def _judge(self, real: Tensor, fake: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """The discriminator's values ``(B,)`` of real and of generated images."""
        if self.discriminator.mixes_images:
            return self.discriminator(real, y), self.discriminator(fake, y)
        twice = None if y is None else torch.cat([y, y])
        on_real, on_fake = self.discriminator(torch.cat([real, fake.to(real.dtype)]), twice).chunk(2)
        return on_real, on_fake

    @torch.no_grad()
    def _clip(self) -> None:
        bound = self.loss.weight_clip
        if bound is not None and self.training:
            weights: list[Tensor] = list(self.discriminator.parameters())
            torch._foreach_clamp_min_(weights, -bound)
            torch._foreach_clamp_max_(weights, bound)

    def validate(self, batch: Batch, stage: str) -> Mapping[str, Tensor]:
        """The terms on held-out images: does the discriminator know those that it was trained on better?

        Of a discriminator with batch norm there are none: its running statistics are of real and generated
        images together, which it has never seen in one batch.
        """
        if self.discriminator.mixes_images:
            return {}
        with torch.no_grad():
            updates = list(self.updates(batch, stage, step=self.config.n_critic - 1))
        return {name: term for update in updates for name, term in update.terms(alone=False).items()}

    def initialize(self, batch: Batch) -> None:
        """Begin with weights that are in range."""
        self._clip()

    def compiled(self) -> Sequence[nn.Module]:
        """Both networks; no discriminator whose gradient is penalised, as compiled it has no second one."""
        if self.loss.gradient_penalty or self.loss.r1:
            return [self.generator]
        return [self.generator, self.discriminator]


def _num_classes(spec: DataSpec) -> int:
    if spec.num_classes is None:
        raise ConfigError(
            "model.conditioning: the dataset has no labels; set model.conditioning=null or take a set that has"
        )
    return spec.num_classes
