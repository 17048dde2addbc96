"""Monotone rational-quadratic splines, and the coupling whose second half goes through them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from genlab.config import Count, Positive, config
from genlab.nets.bijections import Bijection

_Small = Annotated[float, Gt(0), Lt(1)]


@config
class SplineConfig:
    """``num_bins`` bins on ``[-bound, bound]``; beyond it a spline is the identity.

    ``min_bin_width`` and ``min_bin_height`` are shares of the interval's ``2 bound``; no slope at a knot is
    below ``min_derivative``. The smaller they are, the flatter a spline may be, and the more digits its
    inverse loses in float32.
    """

    num_bins: Count = 8
    bound: Positive = 5.0
    min_bin_width: _Small = 1e-2
    min_bin_height: _Small = 1e-2
    min_derivative: _Small = 1e-2

    def __post_init__(self) -> None:
        """Bins of the smallest size fit into the interval."""
        for key in ("min_bin_width", "min_bin_height"):
            if self.num_bins * getattr(self, key) >= 1:
                raise ValueError(f"{key}: {self.num_bins} bins of such a size don't fit; give fewer num_bins")

    @property
    def num_parameters(self) -> int:
        """Of one spline: a width and a height for each bin, and a slope for each knot inside."""
        return 3 * self.num_bins - 1


@dataclass(frozen=True)
class Spline:
    """Monotone splines through knots, one for each entry of a tensor ``(...)``.

    Args:
        x, y: where the knots lie, ``(..., K + 1)`` each, rising from ``-bound`` to ``bound``.
        slope: the derivative at the knots, ``(..., K + 1)``, above 0, and 1 at both ends.
        bound: beyond it the map is the identity, which the ends join with their slope.

    References:
        Gregory & Delbourgo 1982, "Piecewise rational quadratic interpolation to monotonic data"; as a layer
        Durkan et al. 2019, "Neural spline flows", section 3.1.

    >>> x = torch.tensor([-9.0, -1.0, 2.5])
    >>> identity = Spline.of(torch.zeros(3, 23), SplineConfig())
    >>> y, log_slope = identity.forward(x)
    >>> torch.allclose(y, x), torch.allclose(log_slope, torch.zeros(3), atol=1e-6)
    (True, True)
    >>> bent = Spline.of(torch.linspace(-1, 1, 23).expand(3, -1), SplineConfig())
    >>> torch.allclose(bent.inverse(bent.forward(x)[0]), x, atol=1e-5)
    True
    """

    x: Tensor
    y: Tensor
    slope: Tensor
    bound: float

    @classmethod
    def of(cls, raw: Tensor, config: SplineConfig) -> Spline:
        """From any numbers ``(..., 3 K - 1)``; zeros give the identity."""
        bins = config.num_bins
        widths, heights, slopes = raw.split([bins, bins, bins - 1], dim=-1)
        x = _knots(widths, config.min_bin_width, config.bound)
        y = _knots(heights, config.min_bin_height, config.bound)
        # softplus(0 + unit) is what is missing to a slope of 1.
        unit = math.log(math.expm1(1 - config.min_derivative))
        slope = config.min_derivative + F.softplus(slopes + unit)
        return cls(x, y, F.pad(slope, (1, 1), value=1.0), config.bound)

    def _bins(self, values: Tensor, knots: Tensor) -> tuple[Tensor, ...]:
        """Of the bin that each of ``values`` lies in: its ends in x and y, and the slopes there."""
        index = (values.unsqueeze(-1) >= knots[..., 1:-1]).sum(-1, keepdim=True)
        ends = [(line.gather(-1, index), line.gather(-1, index + 1)) for line in (self.x, self.y, self.slope)]
        return tuple(end.squeeze(-1) for pair in ends for end in pair)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``y`` of ``x`` ``(...)``, and ``log dy/dx`` ``(...)``."""
        tail = x.abs() > self.bound
        inside = torch.where(tail, 0.0, x)  # clamped, a number on the bound would have no gradient
        x0, x1, y0, y1, slope0, slope1 = self._bins(inside, self.x)
        secant = (y1 - y0) / (x1 - x0)
        t = (inside - x0) / (x1 - x0)
        bent = t * (1 - t)
        denominator = secant + (slope0 + slope1 - 2 * secant) * bent
        y = y0 + (y1 - y0) * (secant * t.square() + slope0 * bent) / denominator
        numerator = slope1 * t.square() + 2 * secant * bent + slope0 * (1 - t).square()
        log_slope = 2 * (secant.log() - denominator.log()) + numerator.log()
        return torch.where(tail, x, y), torch.where(tail, 0.0, log_slope)

    def inverse(self, y: Tensor) -> Tensor:
        """The ``x`` of ``y`` ``(...)``: the root of a quadratic in the bin of ``y``."""
        tail = y.abs() > self.bound
        inside = torch.where(tail, 0.0, y)
        x0, x1, y0, y1, slope0, slope1 = self._bins(inside, self.y)
        secant, rise = (y1 - y0) / (x1 - x0), inside - y0
        bend = rise * (slope0 + slope1 - 2 * secant)
        a = (y1 - y0) * (secant - slope0) + bend
        b = (y1 - y0) * slope0 - bend
        c = -secant * rise
        # The form of the root that loses no digits where a is small, as it is of all but straight bins.
        t = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
        return torch.where(tail, y, x0 + t * (x1 - x0))


def _knots(raw: Tensor, min_size: float, bound: float) -> Tensor:
    """``(..., K)`` -> the ends of K bins, each at least ``min_size`` of the interval, ``(..., K + 1)``."""
    sizes = min_size + (1 - min_size * raw.shape[-1]) * raw.softmax(-1)
    inner = bound * (2 * sizes[..., :-1].cumsum(-1) - 1)
    return F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


class SplineCoupling(Bijection):
    """The second half goes, entry by entry, through splines that a network reads in the first.

    Args:
        net: ``(B, d, ...)`` -> ``(B, (3 K - 1) (D - d), ...)``; its last layer starts at zero, so that the
            coupling starts as the identity.
        split: ``d``, the size of the first half.
        config: of the splines.

    References:
        Durkan et al. 2019, "Neural spline flows", section 3.2.
    """

    def __init__(self, net: nn.Sequential, split: int, config: SplineConfig) -> None:
        super().__init__()
        self.net, self.split, self.config = net, split, config
        for parameter in net[-1].parameters():
            nn.init.zeros_(parameter)

    def _spline(self, x1: Tensor) -> Spline:
        # Under autocast the network answers in bfloat16, in which knots would hardly be told apart.
        raw = self.net(x1).to(x1.dtype).unflatten(1, (-1, self.config.num_parameters))
        return Spline.of(raw.movedim(2, -1), self.config)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One pass of the network gives map and log-determinant."""
        x1, x2 = x[:, : self.split], x[:, self.split :]
        y2, log_slope = self._spline(x1).forward(x2)
        return torch.cat([x1, y2], dim=1), log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """As cheap as the map: the first half is there unchanged."""
        y1, y2 = y[:, : self.split], y[:, self.split :]
        return torch.cat([y1, self._spline(y1).inverse(y2)], dim=1)
