"""Codes of held-out images, and which of their dimensions say most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from genlab.data.device import DeviceDataset
from genlab.metrics.posterior import kl_per_dim
from genlab.models.base import Model
from genlab.nets.gaussian import DiagonalGaussian
from genlab.types import Decodes, Encodes, HasPosterior

_BATCH = 250  # so that a large decoder or encoder has room on a small device


@runtime_checkable
class Autoencodes(Encodes, Decodes, Protocol):
    """A model with a code for every image and an image for every code."""


def codes(model: Encodes, data: DeviceDataset, num_images: int) -> Tensor:
    """Of the first ``num_images``: ``(N, D)``."""
    return torch.cat([model.encode(batch.x).float() for batch in data.in_order(_BATCH, num_images)])


def posteriors(model: HasPosterior, data: DeviceDataset, num_images: int) -> DiagonalGaussian:
    """Of the first ``num_images``: ``(N, D)``."""
    parts = [model.posterior(batch.x) for batch in data.in_order(_BATCH, num_images)]
    mean = torch.cat([part.mean.float() for part in parts])
    return DiagonalGaussian(mean, torch.cat([part.log_var.float() for part in parts]))


def decoded(model: Decodes, z: Tensor) -> Tensor:
    """Codes ``(..., D)`` -> uint8 images ``(..., C, H, W)``."""
    images = torch.cat([model.decode(part) for part in z.flatten(0, -2).split(_BATCH)])
    return images.view(*z.shape[:-1], *images.shape[1:])


@dataclass(frozen=True)
class Dimensions:
    """The dimensions of a code in the order of what they carry, and a label for each in that order."""

    order: list[int]
    labels: list[str]


def dimensions(model: Model, data: DeviceDataset, z: Tensor) -> Dimensions:
    """By KL to N(0, 1) where there is a posterior, otherwise by the variance of the codes ``z`` ``(N, D)``."""
    if isinstance(model, HasPosterior):
        name, weights = "KL", kl_per_dim(posteriors(model, data, len(z)))
    else:
        name, weights = "var", z.var(0, correction=0)
    order = weights.argsort(descending=True, stable=True).tolist()
    return Dimensions(order, [f"z{d}  {name} {weights[d].item():.2f}" for d in order])
