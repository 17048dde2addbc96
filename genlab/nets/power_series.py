"""``log det(I + J)`` of a contraction by its power series, with a stochastic trace.

For ``|J| < 1``, ``log det(I + J) = sum_k (-1)^(k+1) / k tr(J^k)``, and its derivative is the Neumann series
``sum_k (-1)^k tr(J^k dJ)``. Hutchinson's estimator gives each trace as ``E[v' J^k v]`` over Rademacher ``v``,
whose variance is the smallest of all independent ``v``, and each ``J'v`` is one vector-Jacobian product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from genlab.config import Count, config


@config
class RussianRouletteConfig:
    """All terms in expectation, few in fact: unbiased.

    The first ``exact_terms`` (``eval_exact_terms`` outside of training) are always there. After them the
    series goes on with probability ``1 - stop_probability`` before each further term, which is divided by the
    probability of getting there.

    References:
        Chen et al. 2019, "Residual flows for invertible generative modeling", section 3.1, eq. 6.
    """

    name: Literal["russian_roulette"] = "russian_roulette"
    exact_terms: Count = 2
    eval_exact_terms: Count = 20
    stop_probability: Annotated[float, Gt(0), Lt(1)] = 0.5

    def weights(self, training: bool) -> list[float]:
        """Of the terms ``k = 1, 2, ...``: ``1 / P(N >= k)`` up to an ``N`` drawn from torch's generator."""
        exact = self.exact_terms if training else self.eval_exact_terms
        go_on = 1 - self.stop_probability
        # By inversion, on the CPU: the host has to know, and must not wait for the device.
        uniform = 1 - torch.rand((), dtype=torch.float64).item()
        further = math.floor(math.log(uniform) / math.log(go_on))
        return [1.0] * exact + [go_on**-k for k in range(1, further + 1)]

    def __str__(self) -> str:
        return f"Russian roulette after {self.eval_exact_terms} terms"


@config
class TruncatedConfig:
    """The first ``terms`` of the series (``eval_terms`` outside of training) and no more: biased.

    References:
        Behrmann et al. 2019, "Invertible residual networks", eq. 4 and section 3.2, where it is truncated.
    """

    name: Literal["truncated"] = "truncated"
    terms: Count = 10
    eval_terms: Count = 20

    def weights(self, training: bool) -> list[float]:
        """One for each term."""
        return [1.0] * (self.terms if training else self.eval_terms)

    def __str__(self) -> str:
        return f"biased, as the series ends after {self.eval_terms} terms"


Estimator = RussianRouletteConfig | TruncatedConfig


def log_det(x: Tensor, g: Tensor, weights: Sequence[float], differentiable: bool) -> Tensor:
    """An estimate of ``log det(I + dg/dx)``, nats per element of the batch ``(B,)``, from one ``v`` for each.

    The terms of the value and of the gradient come from the same products ``v' J^k``, which are constants:
    only the one that the Neumann series ends with is differentiated, so memory does not grow with the series.

    Args:
        x: ``(B, ...)``, in the graph of ``g``.
        g: a contraction of ``x``, in its shape.
        weights: of the terms ``k = 1, 2, ...``, at least one.
        differentiable: whether gradients are wanted, by ``x`` and the parameters of ``g``.

    References:
        Chen et al. 2019, section 3.2, eq. 8; the terms of its series are counted from 1 here, so that the
        expected gradient is that of the expected value also where the series is truncated.
    """
    v = torch.randint_like(x, 0, 2).mul_(2).sub_(1).detach()
    row, neumann, value = v, torch.zeros_like(v), v.new_zeros(len(v))
    for k, weight in enumerate(weights, start=1):
        signed = weight if k % 2 else -weight
        neumann = neumann + signed * row  # v' (-J)^(k-1)
        (row,) = torch.autograd.grad(g, x, row, retain_graph=True)
        value = value + signed / k * _dot(row, v)
    if not differentiable:
        return value
    (row,) = torch.autograd.grad(g, x, neumann, create_graph=True)
    slope = _dot(row, v)
    return slope + (value - slope).detach()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
