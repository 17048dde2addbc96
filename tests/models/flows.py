"""Flows and their parts, away from where training begins, and what has to hold of any of them."""

import math

import torch
from torch import nn

from genlab.nets.batch_norm import InvertibleBatchNorm
from genlab.nets.mlp import MLPConfig
from genlab.nets.resnet import ResNetConfig
from genlab.types import DataSpec

NET = MLPConfig(hidden_dim=8, activation="tanh")
CONV = ResNetConfig(hidden_channels=4, num_blocks=1, activation="tanh")
VARIANTS = [
    (NET, "random", DataSpec(1, 4, 4)),
    (NET, "reverse", DataSpec(1, 3, 3)),
    (NET, "checkerboard", DataSpec(3, 2, 4)),
    (CONV, "random", DataSpec(3, 4, 4)),
    (CONV, "channel", DataSpec(1, 4, 2)),
]
"""Networks, orders of the halves and images of flows that couple halves."""


def perturbed(module: nn.Module, size: float = 0.2) -> nn.Module:
    """Away from the identity that couplings start as, with statistics that are not zero and one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
        for part in module.modules():
            if isinstance(part, InvertibleBatchNorm):
                part.mean.copy_(torch.randn(part.mean.shape, generator=generator))
                part.variance.copy_(0.5 + torch.rand(part.mean.shape, generator=generator))
    return module


def images(spec, n=64):
    """Of noise, uint8 ``(n, C, H, W)``."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, *spec.shape), generator=generator, dtype=torch.uint8)


def slogdet(bijection, x):
    """``log |det|`` of the Jacobian of each image of the batch by itself, by autograd."""

    def by_itself(image):
        return bijection(image[None])[0].flatten()

    jacobian = torch.autograd.functional.jacobian
    jacobians = [jacobian(by_itself, image).reshape(image.numel(), -1) for image in x]
    return torch.stack([torch.linalg.slogdet(matrix)[1] for matrix in jacobians])


def log_det_of_images(flow, x):
    """What the term ``log_det`` of images ``x`` in [0, 1] has to be: a level is 1/256 wide."""
    return slogdet(flow, x) - flow.spec.dim * math.log(256)


@torch.no_grad()
def mass(flow, reach, points):
    """The integral of the density of two pixels over the plane's middle part, by the trapezoidal rule."""
    side = torch.linspace(-reach, reach, points, dtype=torch.float64)
    z, log_det = flow.bijection(torch.cartesian_prod(side, side).view(-1, 1, 1, 2))
    log_density = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1) + log_det
    return (log_density.exp().sum() * (side[1] - side[0]) ** 2).item()
