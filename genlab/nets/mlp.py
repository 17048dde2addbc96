"""Multilayer perceptrons."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from genlab.config import Count, config
from genlab.nets.linear import Linear

Activation = Literal["relu", "leaky_relu", "silu", "gelu", "elu", "tanh"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
}


def activation(name: Activation) -> nn.Module:
    """The activation of that name."""
    return _ACTIVATIONS[name]()


class TanhFeatures(nn.Module):
    """``x`` -> ``[x, tanh(2x)]`` along dimension 1, for inputs with heavy tails such as logits of pixels.

    Most of what varies in the logit of a black pixel is dequantisation noise; bounded, it no longer drowns
    the difference between black and grey.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D, ...)`` -> ``(B, 2D, ...)``."""
        return torch.cat([x, torch.tanh(2 * x)], dim=1)


@config
class MLPConfig:
    """``num_layers`` hidden layers of ``hidden_dim`` units each, on :class:`TanhFeatures` if asked for.

    ``activation: glu`` makes gated layers, ``(W x + b) * sigmoid(V x + c)`` (Dauphin et al. 2017, eq. 1).
    """

    name: Literal["mlp"] = "mlp"
    hidden_dim: Count = 512
    num_layers: Count = 2
    activation: Activation | Literal["glu"] = "gelu"
    tanh_features: bool = False


class MLP(nn.Sequential):
    """``(B, in_dim)`` -> ``(B, out_dim)``."""

    def __init__(self, config: MLPConfig, in_dim: int, out_dim: int) -> None:
        layers: list[nn.Module] = []
        if config.tanh_features:
            layers, in_dim = [TanhFeatures()], 2 * in_dim
        for _ in range(config.num_layers):
            layers += _layer(config, in_dim)
            in_dim = config.hidden_dim
        super().__init__(*layers, Linear(in_dim, out_dim))


def _layer(config: MLPConfig, in_dim: int) -> list[nn.Module]:
    if config.activation == "glu":
        return [Linear(in_dim, 2 * config.hidden_dim), nn.GLU(dim=1)]
    return [Linear(in_dim, config.hidden_dim), activation(config.activation)]
