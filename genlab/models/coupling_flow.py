"""Pixel flows of couplings: two halves of the image condition each other in turns."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from pydantic import Field
from torch import Tensor

from genlab.config import config
from genlab.errors import ConfigError
from genlab.likelihood import Alpha
from genlab.models.flow import Flow
from genlab.nets.bijections import Compose, Flatten, Permutation, Squeeze
from genlab.nets.coupling_chain import CouplingOf, Order, coupling_chain
from genlab.nets.mlp import MLPConfig
from genlab.nets.resnet import ResNetConfig
from genlab.types import DataSpec


@config
class CouplingFlowConfig:
    """What flows of couplings on pixels have in common; each adds settings of its coupling."""

    num_flows: Annotated[int, Ge(4)] = 8
    permutation: Order = "random"
    actnorm: bool = True
    alpha: Alpha = 1e-6
    net: Annotated[MLPConfig | ResNetConfig, Field(discriminator="name")]


class CouplingFlow(Flow):
    """``num_flows`` pairs of a coupling and a permutation, after an optional ActNorm each.

    With an MLP the flow acts on the flattened image. With a ResNet each 2x2 square of pixels becomes four
    channels first, so that halves of the channels are halves of the image.

    ``permutation`` says which halves condition each other:

    * ``random``: a fixed random order after each coupling, drawn when the model is built;
    * ``reverse``: the order reversed, so that the halves swap;
    * ``checkerboard``: black and white squares of a checkerboard, swapping;
    * ``channel``: even and odd rows (the first and last channels of each square), swapping.

    Args:
        config: of the flow.
        spec: shape of the images.
        coupling: makes each coupling.

    Raises:
        ConfigError: images that have no such halves.
    """

    def __init__(self, config: CouplingFlowConfig, spec: DataSpec, coupling: CouplingOf) -> None:
        convolutional = isinstance(config.net, ResNetConfig)
        odd = spec.height % 2 or spec.width % 2
        if odd and (convolutional or config.permutation in ("checkerboard", "channel")):
            raise ConfigError(
                f"model: a ResNet, checkerboard and channel permutations need an even height and "
                f"width, and the images are {spec}; take dataset.image_size or model/net=mlp"
            )
        if spec.dim == 1:
            raise ConfigError(f"model: a coupling needs two halves, and the images are {spec}: one number")
        shape = Squeeze() if convolutional else Flatten(spec.shape)
        order = _first_order(config.permutation, spec, convolutional)
        parts = coupling_chain(config.num_flows, len(order), config.permutation, config.actnorm, coupling)
        super().__init__(spec, Compose([shape, Permutation(order), *parts]), config.alpha)


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
