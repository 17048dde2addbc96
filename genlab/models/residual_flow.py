"""Residual Flow: residual blocks whose Lipschitz constant makes them invertible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Lt, MinLen
from pydantic import Field
from torch import Tensor, nn

from genlab.config import Count, Positive, config
from genlab.errors import ConfigError
from genlab.likelihood import Alpha, centre, logit
from genlab.models.flow import Flow
from genlab.nets.bijections import ActNorm, Bijection, Squeeze
from genlab.nets.power_series import RussianRouletteConfig, TruncatedConfig
from genlab.nets.residual import ConvBranch, ResidualBijection, ResidualCompose
from genlab.registry import MODELS
from genlab.types import DataSpec, LikelihoodKind

_MAX_ACTIVATIONS = 2**25  # in one layer of a batch: 128 MB of float32, of which some ten are held at once


@config
class ResidualFlowConfig:
    """Settings of :class:`ResidualFlow`; ``blocks`` at each scale, with a squeeze between scales."""

    name: Literal["residual_flow"] = "residual_flow"
    blocks: Annotated[tuple[Count, ...], MinLen(1)] = (2, 4, 4)
    hidden_channels: Count = 32
    lipschitz: Annotated[float, Gt(0), Lt(1)] = 0.98
    norm_iterations: Count = 8
    inverse_tolerance: Positive = 1e-5
    inverse_max_iterations: Count = 1000
    """The inverse gives up after so many."""
    alpha: Alpha = 1e-6
    estimator: Annotated[RussianRouletteConfig | TruncatedConfig, Field(discriminator="name")]


@MODELS.register("residual_flow")
class ResidualFlow(Flow):
    """ActNorm and a residual block, ``blocks[i]`` times at scale ``i``; nothing is factored out.

    From one scale to the next each 2x2 square of pixels becomes four channels.

    Every dimension acts on its neighbours in each block, where a coupling leaves half of them alone. The
    price is an estimated log-determinant and an inverse by iteration.

    References:
        Chen et al. 2019, "Residual flows for invertible generative modeling";
        Behrmann et al. 2019, "Invertible residual networks".
    """

    Config = ResidualFlowConfig
    likelihood: LikelihoodKind = "unbiased"
    bijection: ResidualCompose

    def __init__(self, config: ResidualFlowConfig, spec: DataSpec) -> None:
        _check_size(config, spec)
        super().__init__(spec, ResidualCompose(_parts(config, spec)), config.alpha)
        self.config = config
        if isinstance(config.estimator, TruncatedConfig):
            self.likelihood = "biased"
        self.protocol += f", log-determinant by Hutchinson's estimator (Rademacher), {config.estimator}"

    @property
    def max_batch(self) -> int:
        """Images that are scored at once, as many as leaves memory for the layers between."""
        return max(1, _MAX_ACTIVATIONS // (self.config.hidden_channels * self.spec.height * self.spec.width))

    def graph_key(self, stage: str, step: int) -> None:
        """Never recorded: how many terms the estimator takes is drawn on the host."""

    def compiled(self) -> Sequence[nn.Module]:
        """None: the gradient of the log-determinant is a second one, which compiled modules don't have."""
        return []

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes ``(B, D)`` of the middle of each pixel's level."""
        return self._code(x).flatten(1)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """``x`` through the flow and back: the same images where the inverse is accurate."""
        return self.decode(self._code(x))

    def _code(self, x: Tensor) -> Tensor:
        y, _ = logit(centre(x), self.alpha)
        return self.bijection.transform(y)


def _check_size(config: ResidualFlowConfig, spec: DataSpec) -> None:
    squeezes = len(config.blocks) - 1
    if spec.height % 2**squeezes == 0 and spec.width % 2**squeezes == 0:
        return
    raise ConfigError(
        f"model.blocks={list(config.blocks)}: {len(config.blocks)} scales need a height and width divisible "
        f"by {2**squeezes}, and the images are {spec}; take dataset.image_size or fewer scales, "
        f"model.blocks=[{config.blocks[0]}] for one"
    )


def _parts(config: ResidualFlowConfig, spec: DataSpec) -> list[Bijection]:
    parts: list[Bijection] = []
    channels, height, width = spec.shape
    for scale, blocks in enumerate(config.blocks):
        if scale:
            parts.append(Squeeze())
            channels, height, width = 4 * channels, height // 2, width // 2
        for _ in range(blocks):
            block = _block(config, (channels, height, width), first=not parts)
            parts += [ActNorm(channels), block]
    return [*parts, ActNorm(channels)]


def _block(config: ResidualFlowConfig, shape: tuple[int, int, int], first: bool) -> ResidualBijection:
    width, bound = config.hidden_channels, config.lipschitz
    g = ConvBranch(shape, width, bound, config.norm_iterations, activate_input=not first)
    return ResidualBijection(g, config.estimator, config.inverse_tolerance, config.inverse_max_iterations)
