"""The Gaussian diffusion: marginals, posteriors, and what a network's output says of an image.

Images are on [-1, 1]; step 0 is the image itself and step T is noise. Every distribution here factorises over
pixels: a variance is one number for each image of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Target = Literal["eps", "x0", "v"]
Variance = Literal["small", "large", "learned"]


@dataclass(frozen=True)
class Denoised:
    """What a network makes of a noisy image: the image, the noise, both ``(B, C, H, W)``.

    ``fraction`` is where the reverse log-variance lies between its bounds, 0 the smaller; ``None`` where it is
    not learned.
    """

    x0: Tensor
    eps: Tensor
    fraction: Tensor | None = None


class Process(nn.Module):
    """``q(x_t | x_0) = N(alpha_t x_0, sigma_t^2)`` with ``alpha_t^2 + sigma_t^2 = 1``, in ``T`` steps.

    Steps are int64 ``(B,)`` from 0 to T. What is computed has the precision that the module has: that of
    ``betas``, float64 at best. Made ``float()`` afterwards it keeps four digits of every ``beta_{t|s}``.

    References:
        Ho et al. 2020, "Denoising diffusion probabilistic models", section 2; of any two steps s < t as in
        Song et al. 2021, "Denoising diffusion implicit models", and Kingma et al. 2021, "Variational
        diffusion models", appendix A.

    >>> process, t = Process(torch.full((2,), 0.5, dtype=torch.float64)), torch.tensor([2])
    >>> process.alpha(t).square().item()  # half of a half is left
    0.25
    >>> process.posterior_variance(torch.tensor([1]), t).item()  # 0.5 * 0.5 / 0.75, eq. 7
    0.333...
    """

    log_alpha_bar: Tensor
    """``(T + 1,)``, the logarithm of alpha_t squared: what is small keeps its digits at both ends."""

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        log_alpha_bar = torch.cat([betas.new_zeros(1).double(), torch.log1p(-betas.double()).cumsum(0)])
        self.num_steps = len(betas)
        self.register_buffer("log_alpha_bar", log_alpha_bar.to(betas), persistent=False)

    def alpha(self, t: Tensor) -> Tensor:
        """The image's share of ``x_t``, ``(B, 1, 1, 1)``."""
        return _as_planes((0.5 * self.log_alpha_bar[t]).exp())

    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise in ``x_t``, ``(B, 1, 1, 1)``."""
        return _as_planes((-torch.expm1(self.log_alpha_bar[t])).sqrt())

    def diffuse(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """``x_t`` of images and standard normal noise ``(B, C, H, W)``."""
        return self.alpha(t) * x0 + self.sigma(t) * eps

    def _step_variance(self, s: Tensor, t: Tensor) -> Tensor:
        """``beta_{t|s}``, of ``q(x_t | x_s)``, ``(B, 1, 1, 1)``."""
        return _as_planes(-torch.expm1(self.log_alpha_bar[t] - self.log_alpha_bar[s]))

    def posterior_mean(self, x0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Of ``q(x_s | x_t, x_0)``, s < t; eq. 7 of Ho et al. where s = t - 1."""
        beta, variance_t = self._step_variance(s, t), self.sigma(t).square()
        of_x0 = self.alpha(s) * beta / variance_t
        of_x_t = (1 - beta).sqrt() * self.sigma(s).square() / variance_t
        return of_x0 * x0 + of_x_t * x_t

    def posterior_variance(self, s: Tensor, t: Tensor) -> Tensor:
        """Of ``q(x_s | x_t, x_0)``, s < t, ``(B, 1, 1, 1)``; 0 where s is 0."""
        return self._step_variance(s, t) * (self.sigma(s) / self.sigma(t)).square()

    def reverse_log_variance(
        self, s: Tensor, t: Tensor, kind: Variance, fraction: Tensor | None = None
    ) -> Tensor:
        """Of the model's ``p(x_s | x_t)``, ``(B, 1, 1, 1)`` or, where it is learned, ``(B, C, H, W)``.

        ``small`` is the posterior's variance (where s is 0 and that is none, the one of ``q(x_1 | x_2, x_0)``),
        ``large`` that of ``q(x_t | x_s)``: the lower and the upper bound of the best one (Ho et al. 2020,
        section 3.2). ``learned`` lies between them (Nichol & Dhariwal 2021, eq. 15).
        """
        small = self.posterior_variance(s.clamp(min=1), torch.where(s == 0, 2, t)).log()
        large = self._step_variance(s, t).log()
        if kind == "learned":
            assert fraction is not None
            return fraction * large + (1 - fraction) * small
        return small if kind == "small" else large

    # ------------------------------------------------------------------ what a network predicts

    def target(self, kind: Target, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """What the network is to predict of ``x_t``: the noise, the image, or ``v = alpha eps - sigma x_0``.

        References:
            Salimans & Ho 2022, "Progressive distillation", appendix D (v).
        """
        if kind == "v":
            return self.alpha(t) * eps - self.sigma(t) * x0
        return eps if kind == "eps" else x0

    @property
    def noise_range(self) -> tuple[float, float]:
        """The logarithm of ``sigma / alpha`` at steps 1 and T."""
        log_ratio = self._log_ratio()
        return log_ratio[0].item(), log_ratio[-1].item()

    def time_of(self, log_ratio: float) -> float:
        """The step at which ``sigma / alpha`` has that logarithm, between steps by interpolation, over T."""
        known = self._log_ratio()
        value = known.new_tensor(log_ratio).clamp(known[0], known[-1])
        above = int(torch.searchsorted(known, value).clamp(1, len(known) - 1))
        low, high = known[above - 1], known[above]
        return (above + (value - low) / (high - low)).item() / self.num_steps

    def _log_ratio(self) -> Tensor:
        """``log(sigma_t / alpha_t)`` of steps 1 to T, which rises."""
        log_alpha_bar = self.log_alpha_bar[1:]
        return 0.5 * ((-torch.expm1(log_alpha_bar)).log() - log_alpha_bar)

    def subsequence(self, num_steps: int | None) -> list[int]:
        """``num_steps`` steps evenly spaced from T, and 0 at the end; of ``None`` or too many, all.

        >>> Process(torch.full((1000,), 0.01)).subsequence(4)
        [1000, 750, 500, 250, 0]
        """
        count = min(num_steps or self.num_steps, self.num_steps)
        return [round(self.num_steps * i / count) for i in range(count, -1, -1)]


def read(
    kind: Target, output: Tensor, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float, clip: bool
) -> Denoised:
    """The image and the noise that an output of that kind says; ``clip`` keeps the image in [-1, 1].

    The noise is that of the image: the two always make up ``x_t = alpha x_0 + sigma eps``.

    >>> x0, eps = torch.tensor([0.5]), torch.tensor([2.0])
    >>> read("eps", eps, 0.8 * x0 + 0.6 * eps, 0.8, 0.6, clip=False).x0
    tensor([0.5000])
    >>> read("v", 0.8 * eps - 0.6 * x0, 0.8 * x0 + 0.6 * eps, 0.8, 0.6, clip=False).x0
    tensor([0.5000])
    """
    if kind == "eps":
        x0 = (x_t - sigma * output) / alpha
    else:
        x0 = output if kind == "x0" else alpha * x_t - sigma * output
    if clip:
        x0 = x0.clamp(-1, 1)
    elif kind == "eps":
        return Denoised(x0, output)
    return Denoised(x0, (x_t - alpha * x0) / sigma)


def _as_planes(values: Tensor) -> Tensor:
    return values[:, None, None, None]
