"""What a decoder says of pixels: the likelihoods p(x|z) of latent-variable models.

A likelihood reads the planes that a decoder gives, ``(..., planes, H, W)``, and scores an *observed* image
``(..., C, H, W)``: what :meth:`PixelLikelihood.observe` makes of uint8 pixels, with fresh noise where the
model is of noisy images (binarised, dequantised).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from genlab.config import Count, config
from genlab.likelihood import LEVELS, bernoulli, centre, dequantise, quantise, to_levels, to_unit
from genlab.types import DataSpec


class PixelLikelihood(nn.Module):
    """``p(x|z)`` of images of one shape; every pixel is independent of the others given ``z``."""

    levels: int = LEVELS
    """How many values a pixel takes on the scale of :meth:`log_prob`."""
    protocol: str = ""
    """What is scored, in words."""

    def __init__(self, spec: DataSpec, planes: int) -> None:
        super().__init__()
        self.spec = spec
        self.shape = (planes, spec.height, spec.width)

    def observe(self, x: Tensor) -> Tensor:
        """Uint8 images -> what is scored, in [0, 1]; with fresh noise where there is any: here, none."""
        return to_unit(x)

    def expected(self, x: Tensor) -> Tensor:
        """:meth:`observe` without chance."""
        return to_unit(x)

    def log_prob(self, planes: Tensor, x: Tensor) -> Tensor:
        """``log p(x|z)`` in nats per image; leading dimensions broadcast."""
        raise NotImplementedError

    def mean(self, planes: Tensor) -> Tensor:
        """The expected image, uint8."""
        raise NotImplementedError

    def sample(self, planes: Tensor, generator: Generator | None = None) -> Tensor:
        """An image drawn pixel by pixel, uint8."""
        raise NotImplementedError


def _rand(like: Tensor, generator: Generator | None) -> Tensor:
    return torch.rand(like.shape, device=like.device, generator=generator)


def _gumbel(like: Tensor, generator: Generator | None) -> Tensor:
    """Noise with which the largest of log-probabilities is a draw from them."""
    return -torch.log(-torch.log(_rand(like, generator).clamp(1e-7, 1 - 1e-7)))


# --------------------------------------------------------------------------------------- Bernoulli


@config
class BernoulliConfig:
    """``dynamic``: a grey pixel is white with the probability of its level, drawn anew at each look;
    ``threshold``: white where brighter than half.

    A set that was binarised once (``dataset.binarization=static``) is the same under both.
    """

    name: Literal["bernoulli"] = "bernoulli"
    binarization: Literal["dynamic", "threshold"] = "dynamic"

    def build(self, spec: DataSpec) -> PixelLikelihood:
        """The likelihood for images of ``spec``."""
        return Bernoulli(self, spec)


class Bernoulli(PixelLikelihood):
    """Black or white: one logit for each pixel and channel.

    >>> spec = DataSpec(1, 1, 2)
    >>> decoder = Bernoulli(BernoulliConfig(), spec)
    >>> decoder.log_prob(torch.zeros(1, 1, 2), torch.tensor([[[0.0, 1.0]]]))  # two fair coins
    tensor(-1.3863)
    """

    levels = 2

    def __init__(self, config: BernoulliConfig, spec: DataSpec) -> None:
        super().__init__(spec, spec.channels)
        self.dynamic = config.binarization == "dynamic"
        how = "drawn by the pixel's level" if self.dynamic else "white above half"
        self.protocol = f"{config.binarization} binarisation ({how}), Bernoulli decoder"

    def observe(self, x: Tensor) -> Tensor:
        """0 or 1 for each pixel."""
        return bernoulli(x) if self.dynamic else (x > (LEVELS - 1) // 2).float()

    def expected(self, x: Tensor) -> Tensor:
        """The probability of white."""
        return to_unit(x) if self.dynamic else self.observe(x)

    def log_prob(self, planes: Tensor, x: Tensor) -> Tensor:
        """Of binary images."""
        planes, x = torch.broadcast_tensors(planes, x)
        return -F.binary_cross_entropy_with_logits(planes, x, reduction="none").flatten(-3).sum(-1)

    def mean(self, planes: Tensor) -> Tensor:
        """The probability of white as a grey level."""
        return (planes.sigmoid() * (LEVELS - 1)).round().to(torch.uint8)

    def sample(self, planes: Tensor, generator: Generator | None = None) -> Tensor:
        """0 or 255 for each pixel."""
        return (_rand(planes, generator) < planes.sigmoid()).to(torch.uint8) * (LEVELS - 1)


# --------------------------------------------------------------------------------------- Gaussian


@config
class GaussianConfig:
    """``scale`` is the standard deviation on pixels in [0, 1]: ``fixed``, or where learning begins, of one
    number for all pixels (``shared``) or by the decoder for each (``per_pixel``)."""

    name: Literal["gaussian"] = "gaussian"
    scale: Annotated[float, Ge(0.002), Le(10)] = 0.1
    variance: Literal["fixed", "shared", "per_pixel"] = "shared"

    def build(self, spec: DataSpec) -> PixelLikelihood:
        """The likelihood for images of ``spec``."""
        return Gaussian(self, spec)


class Gaussian(PixelLikelihood):
    """A normal density of uniformly dequantised pixels, on the scale of 256 levels.

    References:
        Rybkin et al. 2021, "Simple and effective VAE training with calibrated decoders" (shared variance).

    >>> decoder = Gaussian(GaussianConfig(scale=0.1, variance="fixed"), DataSpec(1, 1, 1))
    >>> peak = decoder.log_prob(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 0.5))
    >>> peak.exp() * 256  # 1 / (0.1 sqrt(2 pi))
    tensor(3.9894)
    """

    offset: Tensor
    min_scale = 1e-3
    """The noise of dequantisation alone has a standard deviation of 1/256/sqrt(12) = 0.0011."""

    def __init__(self, config: GaussianConfig, spec: DataSpec) -> None:
        super().__init__(spec, spec.channels * (1 + (config.variance == "per_pixel")))
        self.variance = config.variance
        raw = torch.tensor(math.log(math.expm1(config.scale - self.min_scale)))
        self.raw_scale = nn.Parameter(raw) if config.variance == "shared" else None
        self.register_buffer("offset", raw.clone())
        self.protocol = f"uniform dequantisation, (x + u) / 256, Gaussian decoder, {config.variance} variance"

    def _mean_and_scale(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        if self.variance == "per_pixel":
            planes, raw = planes.chunk(2, dim=-3)
            raw = raw + self.offset
        else:
            raw = self.offset if self.raw_scale is None else self.raw_scale
        return planes.sigmoid(), self.min_scale + F.softplus(raw)

    def observe(self, x: Tensor) -> Tensor:
        """Uniformly dequantised."""
        return dequantise(x)

    def expected(self, x: Tensor) -> Tensor:
        """The middle of each level."""
        return centre(x)

    def log_prob(self, planes: Tensor, x: Tensor) -> Tensor:
        """A lower bound in expectation on the 256-level scale, see :mod:`genlab.likelihood`."""
        mean, scale = self._mean_and_scale(planes)
        density = -0.5 * ((x - mean) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
        return to_levels(density.flatten(-3).sum(-1), self.spec.dim)

    def mean(self, planes: Tensor) -> Tensor:
        """The mean of each pixel."""
        return quantise(self._mean_and_scale(planes)[0])

    def sample(self, planes: Tensor, generator: Generator | None = None) -> Tensor:
        """Mean and noise, clamped to the range of pixels."""
        mean, scale = self._mean_and_scale(planes)
        noise = torch.randn(mean.shape, device=mean.device, generator=generator)
        return quantise(mean + scale * noise)


# --------------------------------------------------------------------------------------- logistic mixture


@config
class LogisticMixtureConfig:
    """``num_components`` logistics for each pixel."""

    name: Literal["logistic_mixture"] = "logistic_mixture"
    num_components: Count = 5

    def build(self, spec: DataSpec) -> PixelLikelihood:
        """The likelihood for images of ``spec``."""
        return DiscretizedLogisticMixture(self, spec)


class DiscretizedLogisticMixture(PixelLikelihood):
    """The mass that a mixture of logistics puts on each of 256 levels; the ends take the tails.

    The channels of a pixel share the choice of component, and the mean of a channel is linear in the
    channels before it.

    References:
        Salimans et al. 2017, "PixelCNN++", section 2.1 and 2.2.

    >>> decoder = DiscretizedLogisticMixture(LogisticMixtureConfig(num_components=2), DataSpec(1, 1, 1))
    >>> levels = to_unit(torch.arange(256, dtype=torch.uint8)).view(256, 1, 1, 1)
    >>> decoder.log_prob(torch.randn(6, 1, 1), levels).exp().sum().round(decimals=3)
    tensor(1.)
    """

    protocol = "256 levels, discretised logistic mixture decoder"
    later: Tensor
    earlier: Tensor

    def __init__(self, config: LogisticMixtureConfig, spec: DataSpec) -> None:
        channels = spec.channels
        self.sizes = [1, channels, channels, channels * (channels - 1) // 2]
        super().__init__(spec, config.num_components * sum(self.sizes))
        self.num_components = config.num_components
        lower = torch.tril_indices(channels, channels, offset=-1)
        self.register_buffer("later", lower[0], persistent=False)
        self.register_buffer("earlier", lower[1], persistent=False)

    def _split(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-weights ``(..., K, 1, H, W)``; means, log-scales, coupling of channels ``(..., K, C, H, W)``."""
        split = planes.unflatten(-3, (self.num_components, -1)).split(self.sizes, dim=-3)
        logits, means, log_scales, coefficients = split
        # A tenth of the range to begin with, and never much narrower than a level.
        return logits.log_softmax(-4), means, (log_scales - 2).clamp(min=-7), coefficients.tanh()

    def _conditional_means(self, means: Tensor, coefficients: Tensor, x: Tensor) -> Tensor:
        """``x`` ``(..., 1 or K, C, H, W)`` on [-1, 1]: the channels before each one."""
        if means.shape[-3] == 1:
            return means
        terms = coefficients * x.index_select(-3, self.earlier)
        shifts = terms.new_zeros(*terms.shape[:-3], *means.shape[-3:]).index_add(-3, self.later, terms)
        return means + shifts

    def log_prob(self, planes: Tensor, x: Tensor) -> Tensor:
        """Exact, of 256 levels."""
        x = (2 * x - 1).unsqueeze(-4)
        log_weights, means, log_scales, coefficients = self._split(planes)
        centred = x - self._conditional_means(means, coefficients, x)
        inverse_scale, half = (-log_scales).exp(), 1 / (LEVELS - 1)
        upper, lower = inverse_scale * (centred + half), inverse_scale * (centred - half)
        # log(sigmoid(upper) - sigmoid(lower)), without cancellation where both are near 0 or 1 or each other:
        log_width = torch.log(-torch.expm1(-2 * half * inverse_scale))
        log_mass = F.logsigmoid(upper) + F.logsigmoid(-lower) + log_width
        log_mass = torch.where(x < -1 + half, F.logsigmoid(upper), log_mass)
        log_mass = torch.where(x > 1 - half, F.logsigmoid(-lower), log_mass)
        per_pixel = torch.logsumexp(log_weights.squeeze(-3) + log_mass.sum(-3), dim=-3)
        return per_pixel.flatten(-2).sum(-1)

    def _compose(self, means: Tensor, coefficients: Tensor) -> Tensor:
        """Channel by channel, each from the levels of those before it; on [-1, 1]."""
        x = torch.zeros_like(means)
        for channel in range(means.shape[-3]):
            value = self._conditional_means(means, coefficients, x)[..., channel, :, :]
            x = x.clone()
            x[..., channel, :, :] = _nearest_level(value) / (LEVELS - 1) * 2 - 1
        return x

    def mean(self, planes: Tensor) -> Tensor:
        """The mean over components of their central images."""
        log_weights, means, _, coefficients = self._split(planes)
        return _to_uint8((log_weights.exp() * self._compose(means, coefficients)).sum(-4))

    def sample(self, planes: Tensor, generator: Generator | None = None) -> Tensor:
        """A component for each pixel, then its channels in order."""
        log_weights, means, log_scales, coefficients = self._split(planes)
        chosen = (log_weights + _gumbel(log_weights, generator)).argmax(-4, keepdim=True)
        u = _rand(means, generator).clamp(1e-5, 1 - 1e-5)
        noisy = means + log_scales.exp() * (u.log() - (-u).log1p())
        drawn = self._compose(noisy, coefficients)
        return _to_uint8(drawn.take_along_dim(chosen, -4).squeeze(-4))


def _to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] -> levels."""
    return _nearest_level(x).to(torch.uint8)


def _nearest_level(x: Tensor) -> Tensor:
    return ((x + 1) / 2 * (LEVELS - 1)).round().clamp(0, LEVELS - 1)


# --------------------------------------------------------------------------------------- categorical


@config
class CategoricalConfig:
    """A logit for each of 256 levels."""

    name: Literal["categorical"] = "categorical"

    def build(self, spec: DataSpec) -> PixelLikelihood:
        """The likelihood for images of ``spec``."""
        return Categorical(spec)


class Categorical(PixelLikelihood):
    """Any distribution over the 256 levels of each pixel and channel.

    References:
        van den Oord et al. 2016, "Pixel recurrent neural networks", section 3.3.

    >>> decoder = Categorical(DataSpec(1, 1, 1))
    >>> decoder.log_prob(torch.zeros(256, 1, 1), torch.zeros(1, 1, 1))  # -log(256)
    tensor(-5.5452)
    """

    protocol = "256 levels, categorical decoder"

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec, LEVELS * spec.channels)

    def _log_probs(self, planes: Tensor) -> Tensor:
        """``(..., 256, C, H, W)``."""
        log_probs: Tensor = planes.unflatten(-3, (LEVELS, self.spec.channels)).log_softmax(-4)
        return log_probs

    def log_prob(self, planes: Tensor, x: Tensor) -> Tensor:
        """Exact, of 256 levels."""
        log_probs = self._log_probs(planes)
        level = (x * (LEVELS - 1)).round().long().unsqueeze(-4)
        leading = torch.broadcast_shapes(log_probs.shape[:-4], level.shape[:-4])
        level = level.expand(*leading, *level.shape[-4:])
        log_probs = log_probs.expand(*leading, *log_probs.shape[-4:])
        return log_probs.take_along_dim(level, -4).flatten(-4).sum(-1)

    def mean(self, planes: Tensor) -> Tensor:
        """The expected level."""
        levels = torch.arange(LEVELS, device=planes.device).view(-1, 1, 1, 1)
        return (self._log_probs(planes).exp() * levels).sum(-4).round().to(torch.uint8)

    def sample(self, planes: Tensor, generator: Generator | None = None) -> Tensor:
        """A level for each pixel and channel."""
        log_probs = self._log_probs(planes)
        return (log_probs + _gumbel(log_probs, generator)).argmax(-4).to(torch.uint8)


PixelLikelihoodConfig = Annotated[
    BernoulliConfig | GaussianConfig | LogisticMixtureConfig | CategoricalConfig, Field(discriminator="name")
]
