"""RealNVP: affine couplings on halves, with a permutation after each."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from pydantic import Field
from torch import Tensor

from genlab.config import Positive, config
from genlab.errors import ConfigError
from genlab.likelihood import Alpha
from genlab.models.flow import Flow
from genlab.nets.bijections import (
    ActNorm,
    AffineCoupling,
    Bijection,
    Compose,
    Flatten,
    Permutation,
    Squeeze,
)
from genlab.nets.mlp import MLP, MLPConfig
from genlab.nets.resnet import ResNet, ResNetConfig
from genlab.registry import MODELS
from genlab.types import DataSpec

Order = Literal["random", "reverse", "checkerboard", "channel"]


@config
class RealNVPConfig:
    """Settings of :class:`RealNVP`."""

    name: Literal["realnvp"] = "realnvp"
    num_flows: Annotated[int, Ge(4)] = 8
    permutation: Order = "random"
    scale_bound: Positive = 2.0
    actnorm: bool = True
    alpha: Alpha = 1e-6
    net: Annotated[MLPConfig | ResNetConfig, Field(discriminator="name")]


@MODELS.register("realnvp")
class RealNVP(Flow):
    """``num_flows`` pairs of an affine coupling and a permutation, after an optional ActNorm each.

    With an MLP the flow acts on the flattened image. With a ResNet each 2x2 square of pixels becomes four
    channels first, so that halves of the channels are halves of the image.

    ``permutation`` says which halves condition each other:

    * ``random``: a fixed random order after each coupling, drawn when the model is built;
    * ``reverse``: the order reversed, so that the halves swap;
    * ``checkerboard``: black and white squares of a checkerboard, swapping;
    * ``channel``: even and odd rows (the first and last channels of each square), swapping.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP".
    """

    Config = RealNVPConfig

    def __init__(self, config: RealNVPConfig, spec: DataSpec) -> None:
        convolutional = isinstance(config.net, ResNetConfig)
        odd = spec.height % 2 or spec.width % 2
        if odd and (convolutional or config.permutation in ("checkerboard", "channel")):
            raise ConfigError(
                f"model: a ResNet, checkerboard and channel permutations need an even height and "
                f"width, and the images are {spec}; take dataset.image_size or model/net=mlp"
            )
        shape = Squeeze() if convolutional else Flatten(spec.shape)
        order = _first_order(config.permutation, spec, convolutional)
        parts: list[Bijection] = [shape, Permutation(order)]
        for _ in range(config.num_flows):
            if config.actnorm:
                parts.append(ActNorm(len(order)))
            parts.append(_coupling(config, len(order)))
            parts.append(Permutation(_next_order(config.permutation, len(order))))
        super().__init__(spec, Compose(parts), config.alpha)
        self.config = config


def _coupling(config: RealNVPConfig, dim: int) -> AffineCoupling:
    split = dim // 2
    in_dim, out_dim = split, 2 * (dim - split)
    if isinstance(config.net, ResNetConfig):
        return AffineCoupling(ResNet(config.net, in_dim, out_dim), split, config.scale_bound)
    return AffineCoupling(MLP(config.net, in_dim, out_dim), split, config.scale_bound)


def _first_order(permutation: Order, spec: DataSpec, convolutional: bool) -> Tensor:
    """The order in which the two halves are the two colours, or the even and odd rows."""
    colour = _colours(permutation, spec)
    if convolutional:
        colour = Squeeze()(colour[None])[0][0, :, 0, 0]
    return colour.flatten().argsort(stable=True)


def _colours(permutation: Order, spec: DataSpec) -> Tensor:
    """``(C, H, W)`` of 0 for the first half and 1 for the second; all 0 where the order is free."""
    row = torch.arange(spec.height)[:, None]
    column = torch.arange(spec.width)[None, :]
    if permutation == "checkerboard":
        colour = (row + column) % 2
    elif permutation == "channel":
        colour = row % 2 + 0 * column
    else:
        colour = 0 * (row + column)
    return colour.expand(spec.shape).contiguous().float()


def _next_order(permutation: Order, dim: int) -> Tensor:
    if permutation == "random":
        return torch.randperm(dim)
    if permutation == "reverse":
        return torch.arange(dim).flip(0)
    return torch.arange(dim).roll(dim // 2)
