"""The words that every part of genlab shares: batches, updates, stages, and what a model can do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.nn import Parameter

from genlab.nets.gaussian import DiagonalGaussian


@dataclass(frozen=True)
class DataSpec:
    """The shape of one image, known before any image is loaded.

    ``num_classes`` is ``None`` for a set without labels.
    """

    channels: int
    height: int
    width: int
    num_classes: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return (self.channels, self.height, self.width)

    @property
    def dim(self) -> int:
        """Number of dimensions ``C * H * W``: what bits *per dimension* divides by."""
        return self.channels * self.height * self.width

    def __str__(self) -> str:
        colour = {1: "grey", 3: "RGB"}.get(self.channels, f"{self.channels}-channel")
        return f"{self.height}x{self.width} {colour}"


@dataclass(frozen=True)
class Batch:
    """Images ``x``: uint8 ``(B, C, H, W)`` on the device; labels ``y``: int64 ``(B,)`` or ``None``."""

    x: Tensor
    y: Tensor | None = None


@dataclass(frozen=True)
class Update:
    """One optimizer step that a model asks for: ``loss`` for the parameters of ``group``.

    ``logs`` are scalars on the device by the names that TensorBoard shows; the loss need not be among them.
    """

    group: str
    loss: Tensor
    logs: Mapping[str, Tensor]

    def terms(self, alone: bool) -> dict[str, Tensor]:
        """The logs and the loss, detached; the loss carries the group's name where it is not ``alone``."""
        loss = {"loss" if alone else f"loss_{self.group}": self.loss}
        return {name: term.detach() for name, term in {**loss, **self.logs}.items()}


@dataclass(frozen=True)
class Stage:
    """A phase of training and the parameter groups it moves; all others are frozen."""

    name: str
    groups: Mapping[str, list[Parameter]]


LikelihoodKind = Literal["exact", "unbiased", "biased", "bound"]


@runtime_checkable
class Samples(Protocol):
    """A model that draws images."""

    def sample(self, n: int, y: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """``n`` images, uint8 ``(n, C, H, W)``, of classes ``y`` where the model is conditional."""
        ...


@dataclass(frozen=True)
class SamplingStep:
    """A moment of sampling: images ``x`` at ``time`` (1: noise, 0: done), and the images foreseen then, ``x0``.

    ``(n, C, H, W)`` both: uint8 where a model gives them, floats on [-1, 1] inside one.
    """

    time: float
    x: Tensor
    x0: Tensor


@runtime_checkable
class SamplesStepwise(Protocol):
    """A model whose samples come out of noise step by step."""

    def sample_steps(
        self, n: int, y: Tensor | None = None, generator: Generator | None = None
    ) -> Iterator[SamplingStep]:
        """The way of the images that :meth:`Samples.sample` gives, from noise to the images themselves."""
        ...


@runtime_checkable
class Denoises(Protocol):
    """A model that sees through noise."""

    def denoised(self, x: Tensor, time: float, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Uint8 images with as much noise as at ``time`` in (0, 1], and what it makes of them; uint8 both."""
        ...


@runtime_checkable
class HasLikelihood(Protocol):
    """A model that scores images; ``likelihood`` says what the score is of log p(x)."""

    likelihood: LikelihoodKind

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Nats per image ``(B,)`` of uint8 ``x`` on the 256-level scale."""
        ...


@runtime_checkable
class HasCodeLikelihood(Protocol):
    """A model with a density of codes and none of pixels: the two are not to be compared."""

    def code_log_prob(self, x: Tensor) -> Tensor:
        """Nats per code ``(B,)``: the density of the code of uint8 ``x``, in units of the code."""
        ...


@dataclass(frozen=True)
class BoundTerms:
    """Importance samples ``(m, B)`` of a bound, in nats: ``-log p(x|z)`` and ``log q(z|x) - log p(z)``.

    >>> BoundTerms(torch.tensor([[1.0], [1.0]]), torch.tensor([[0.5], [0.5]])).bound()  # equal weights
    tensor([-1.5000])
    """

    reconstruction: Tensor
    kl: Tensor

    def bound(self) -> Tensor:
        """The importance-weighted bound on log p(x) ``(B,)`` of all ``m``; at ``m`` = 1 the ELBO.

        References:
            Burda et al. 2016, "Importance weighted autoencoders", eq. 8.
        """
        return torch.logsumexp(-self.reconstruction - self.kl, 0) - math.log(len(self.kl))


@runtime_checkable
class HasBound(Protocol):
    """A model whose ``log_prob`` is an importance-weighted bound, of as many samples as one likes."""

    def observe(self, x: Tensor) -> Tensor:
        """What is scored of uint8 images, with fresh noise where there is any."""
        ...

    def bound_terms(self, x: Tensor, num_samples: int) -> BoundTerms:
        """``num_samples`` importance samples for each observed image."""
        ...


@runtime_checkable
class HasStepTerms(Protocol):
    """A model whose bound is a sum over the steps of a chain, from the image (step 1) to noise (step T)."""

    @property
    def strata(self) -> Sequence[tuple[int, int]]:
        """The first and the last step of each part of the chain that has a term; step 1 is one by itself."""
        ...

    def step_terms(self, x: Tensor) -> Tensor:
        """The bound on ``-log p(x)`` of uint8 images as summands ``(B, K + 1)``, in nats per image.

        ``L_0``, how well step 1 gives the image; what the steps of each further of the ``K`` strata give away
        together; ``L_T``, how far the end is from noise.
        """
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """A model that maps an image to its code and back."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Uint8 ``(B, C, H, W)``."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """A model with a code for every image."""

    def encode(self, x: Tensor) -> Tensor:
        """``(B, D)``."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """A model with an image for every code."""

    def decode(self, z: Tensor) -> Tensor:
        """Codes ``(B, D)``, as :class:`Encodes` gives them, -> uint8 ``(B, C, H, W)``."""
        ...


@runtime_checkable
class HasPosterior(Protocol):
    """A model that infers a distribution over codes; ``encode`` is its mean."""

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """``q(z|x)`` of uint8 ``x``, of mean and log-variance ``(B, D)``."""
        ...
