"""Ordinary differential equations between images and noise: solvers, and the densities of their flows."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from genlab.config import Count, config

Velocity = Callable[[Tensor, float], Tensor]
"""``dx/dtime`` of ``x`` ``(B, ...)`` at a time, of the shape of ``x``."""
Solver = Literal["euler", "midpoint", "rk4"]


@config
class ODEConfig:
    """``num_steps`` of a fourth-order solver, and ``num_probes`` random directions for each divergence."""

    num_steps: Count = 40
    num_probes: Count = 1

    @property
    def protocol(self) -> str:
        """In words."""
        probes = "1 probe" if self.num_probes == 1 else f"{self.num_probes} probes"
        return f"{self.num_steps} Runge-Kutta steps, Hutchinson's estimate with {probes}"


def solve(velocity: Velocity, x: Tensor, times: Sequence[float], solver: Solver) -> Iterator[Tensor]:
    """``x`` at each of ``times`` but the first, where it starts.

    ``euler`` takes one evaluation a step and is of first order, ``midpoint`` two and of second, ``rk4`` four
    and of fourth (Hairer, Nørsett & Wanner 1993, "Solving ordinary differential equations I", section II.1).

    >>> *_, end = solve(lambda x, time: x, torch.ones(1, dtype=torch.float64), evenly_spaced(0, 1, 20), "rk4")
    >>> end.item()  # e, to fourth order
    2.71828...
    """
    for start, end in itertools.pairwise(times):
        h, middle = end - start, (start + end) / 2
        k1 = velocity(x, start)
        if solver == "euler":
            x = x + h * k1
        elif solver == "midpoint":
            x = x + h * velocity(x + h / 2 * k1, middle)
        else:
            k2 = velocity(x + h / 2 * k1, middle)
            k3 = velocity(x + h / 2 * k2, middle)
            k4 = velocity(x + h * k3, end)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        yield x


def evenly_spaced(start: float, end: float, num_steps: int) -> list[float]:
    """``num_steps + 1`` times from ``start`` to ``end``.

    >>> evenly_spaced(1, 0, 4)
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return [start + (end - start) * i / num_steps for i in range(num_steps + 1)]


def transport(
    velocity: Velocity, x: Tensor, start: float, end: float, config: ODEConfig
) -> tuple[Tensor, Tensor]:
    """Where the flow takes images ``(B, C, H, W)``, and the log-determinant of its Jacobian there ``(B,)``.

    The divergence is estimated without bias along random directions, the same ones all the way. In float32
    whatever the autocast, and without gradients.

    References:
        Chen et al. 2018, "Neural ordinary differential equations", eq. 8; Grathwohl et al. 2019, "FFJORD",
        section 3.1; Song et al. 2021, "Score-based generative modeling through SDEs", section 4.3.

    >>> x, log_det = transport(lambda x, time: x, torch.ones(1, 1, 1, 2), 0.0, 1.0, ODEConfig())
    >>> x.log().round(decimals=3), log_det.round(decimals=3)  # each of two coordinates grows by e
    (tensor([[[[1., 1.]]]]), tensor([2.]))
    """
    shape = (config.num_probes, *x.shape)
    probes = torch.randint(0, 2, shape, device=x.device).to(x) * 2 - 1

    def with_divergence(state: Tensor, time: float) -> Tensor:
        moved, divergence = _divergence(velocity, state[:, :-1].view_as(x), time, probes)
        return torch.cat([moved.flatten(1), divergence[:, None]], dim=1)

    state = torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], dim=1)
    with torch.autocast(x.device.type, enabled=False), torch.no_grad():
        way = solve(with_divergence, state, evenly_spaced(start, end, config.num_steps), "rk4")
        state = deque(way, maxlen=1).pop()
    return state[:, :-1].view_as(x), state[:, -1]


def _divergence(velocity: Velocity, x: Tensor, time: float, probes: Tensor) -> tuple[Tensor, Tensor]:
    """The velocity and Hutchinson's estimate of its divergence ``(B,)``."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        moved = velocity(x, time)
        estimates = []
        for i, probe in enumerate(probes):
            (product,) = torch.autograd.grad((moved * probe).sum(), x, retain_graph=i + 1 < len(probes))
            estimates.append((product * probe).flatten(1).sum(1))
    return moved.detach(), torch.stack(estimates).mean(0)
