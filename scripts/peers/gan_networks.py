"""The layers of conf/model/gan.yaml for images of 28x28, in plain PyTorch."""

from __future__ import annotations

from torch import nn

CODE = 100


def up(a: int, b: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    conv = nn.ConvTranspose2d(a, b, kernel, stride, padding, bias=False)
    return [conv, nn.BatchNorm2d(b), nn.ReLU(True)]


def down(a: int, b: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    conv = nn.Conv2d(a, b, kernel, stride, padding, bias=False)
    return [conv, nn.BatchNorm2d(b), nn.LeakyReLU(0.2, inplace=True)]


def generator() -> nn.Sequential:
    last = nn.ConvTranspose2d(64, 1, 4, 2, 1)
    return nn.Sequential(*up(CODE, 128, 7, 1, 0), *up(128, 64, 4, 2, 1), last, nn.Sigmoid())


def discriminator() -> nn.Sequential:
    first = [nn.Conv2d(1, 64, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    rest = [*down(64, 128, 4, 2, 1), *down(128, 256, 4, 2, 1), *down(256, 512, 3, 1, 0)]
    return nn.Sequential(*first, *rest, nn.Flatten(), nn.Linear(512, 1), nn.Sigmoid())
