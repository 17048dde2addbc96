"""Multilayer perceptrons."""

from __future__ import annotations

from typing import Literal

from torch import nn

from genlab.config import Count, config

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


@config
class MLPConfig:
    """``num_layers`` hidden layers of ``hidden_dim`` units each."""

    name: Literal["mlp"] = "mlp"
    hidden_dim: Count = 512
    num_layers: Count = 2
    activation: Activation = "gelu"


class MLP(nn.Sequential):
    """``(B, in_dim)`` -> ``(B, out_dim)``."""

    def __init__(self, config: MLPConfig, in_dim: int, out_dim: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(config.num_layers):
            layers += [nn.Linear(in_dim, config.hidden_dim), activation(config.activation)]
            in_dim = config.hidden_dim
        super().__init__(*layers, nn.Linear(in_dim, out_dim))
