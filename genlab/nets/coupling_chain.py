"""Couplings one after another: two halves condition each other in turns, a permutation deciding which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from genlab.nets.bijections import ActNorm, AffineCoupling, Bijection, Permutation
from genlab.nets.mlp import MLP, MLPConfig
from genlab.nets.resnet import ResNet, ResNetConfig

VectorOrder = Literal["random", "reverse"]
Order = Literal[VectorOrder, "checkerboard", "channel"]

CouplingOf = Callable[[int], Bijection]
"""From the size of dimension 1 to a coupling whose first half is the smaller one."""


def coupling_chain(
    num_flows: int, dim: int, permutation: Order, actnorm: bool, coupling: CouplingOf
) -> list[Bijection]:
    """``num_flows`` times: an ActNorm where asked for, a coupling and a permutation of ``dim`` entries."""
    parts: list[Bijection] = []
    for _ in range(num_flows):
        if actnorm:
            parts.append(ActNorm(dim))
        parts.append(coupling(dim))
        parts.append(Permutation(_next_order(permutation, dim)))
    return parts


def affine(net: MLPConfig | ResNetConfig, scale_bound: float) -> CouplingOf:
    """Affine couplings whose log-scale is at most ``scale_bound``."""
    return lambda dim: AffineCoupling(half_net(net, dim, 2), dim // 2, scale_bound)


def half_net(config: MLPConfig | ResNetConfig, dim: int, per_entry: int) -> nn.Sequential:
    """Reads the first half of ``dim`` entries and gives ``per_entry`` numbers for each of the second."""
    split = dim // 2
    in_dim, out_dim = split, per_entry * (dim - split)
    if isinstance(config, ResNetConfig):
        return ResNet(config, in_dim, out_dim)
    return MLP(config, in_dim, out_dim)


def _next_order(permutation: Order, dim: int) -> Tensor:
    if permutation == "random":
        return torch.randperm(dim)
    if permutation == "reverse":
        return torch.arange(dim).flip(0)
    return torch.arange(dim).roll(dim // 2)
