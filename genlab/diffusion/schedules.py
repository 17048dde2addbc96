"""How fast noise is added: the variances beta_1 to beta_T of a diffusion's steps."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from pydantic import Field
from torch import Tensor

from genlab.config import NonNegative, OpenFraction, Positive, config

Steps = Annotated[int, Ge(2)]
"""A number of steps of a chain, of at least 2."""
_WORST = 1e-3
"""Bits per dimension that the end of a diffusion may still know of a black pixel."""


@config
class LinearSchedule:
    """Betas rise evenly from ``beta_start`` to ``beta_end`` over 1,000 steps; fewer steps are as much larger.

    References:
        Ho et al. 2020, "Denoising diffusion probabilistic models", section 4.

    >>> LinearSchedule().betas()[[0, -1]]
    tensor([0.0001, 0.0200], dtype=torch.float64)
    """

    name: Literal["linear"] = "linear"
    num_steps: Steps = 1000
    """Steps from an image to noise."""
    beta_start: Positive = 1e-4
    beta_end: Positive = 0.02

    def __post_init__(self) -> None:
        """Refuse what is no diffusion to noise."""
        _check(self.betas())

    def betas(self) -> Tensor:
        """Float64 ``(T,)``."""
        scale = 1000 / self.num_steps
        return scale * torch.linspace(self.beta_start, self.beta_end, self.num_steps, dtype=torch.float64)


@config
class CosineSchedule:
    """``alpha_bar_t`` falls as a squared cosine; ``max_beta`` keeps the last steps from being singular.

    References:
        Nichol & Dhariwal 2021, "Improved denoising diffusion probabilistic models", eq. 17.

    >>> (1 - CosineSchedule(offset=0.0).betas())[:500].prod()  # halfway: cos^2 of 45 degrees
    tensor(0.5000, dtype=torch.float64)
    """

    name: Literal["cosine"] = "cosine"
    num_steps: Steps = 1000
    """Steps from an image to noise."""
    offset: NonNegative = 0.008
    """Keeps the first betas from being too small: the paper's ``s``."""
    max_beta: OpenFraction = 0.999

    def __post_init__(self) -> None:
        """Refuse what is no diffusion to noise."""
        _check(self.betas())

    def betas(self) -> Tensor:
        """Float64 ``(T,)``."""
        time = torch.linspace(0, 1, self.num_steps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((time + self.offset) / (1 + self.offset) * math.pi / 2).square()
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=self.max_beta)


Schedule = Annotated[LinearSchedule | CosineSchedule, Field(discriminator="name")]


def leftover(betas: Tensor) -> float:
    """What the end of the diffusion still knows of a pixel, at most: bits per dimension.

    ``KL(q(x_T | x_0) || N(0, 1))`` of a pixel at -1 or 1, where it is largest.

    >>> leftover(torch.tensor([0.5]))  # alpha_bar = 1/2: half a bit
    0.5
    """
    alpha_bar = torch.log1p(-betas.double()).sum().exp()
    return (-0.5 * torch.log1p(-alpha_bar) / math.log(2)).item()


def _check(betas: Tensor) -> None:
    """Raise ValueError unless ``betas`` lie within (0, 1) and end in standard normal noise."""
    if not ((betas > 0) & (betas < 1)).all():
        worst = betas.min() if betas.min() <= 0 else betas.max()
        raise ValueError(f"a beta of {worst:.3g} is not within (0, 1); take more steps, or smaller betas")
    if (left := leftover(betas)) > _WORST:
        raise ValueError(
            f"x_T is not standard normal: it knows {left:.3g} bits/dim of the image, and at most {_WORST:g} "
            "are allowed; take larger betas"
        )
