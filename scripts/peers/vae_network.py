"""The networks of the VAE, in plain PyTorch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peers.contest import Size

DIM = 784


@dataclass(frozen=True)
class VAESize(Size):
    images: int = 60_000
    batch: int = 128
    steps: int = 100
    hidden: int = 400
    latent: int = 20


def layers(*widths: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        parts += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class PlainVAE(nn.Module):
    def __init__(self, size: VAESize) -> None:
        super().__init__()
        self.encoder = layers(DIM, size.hidden, size.hidden, 2 * size.latent)
        self.decoder = nn.Sequential(layers(size.latent, size.hidden, size.hidden, DIM), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        return self.decoder(z), mean, log_var
