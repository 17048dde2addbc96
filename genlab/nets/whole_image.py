"""Convolutions between an image and a single pixel: their kernel is the whole image."""

from __future__ import annotations

from torch import Tensor, nn

from genlab.nets.linear import linear


class ImageToPixel(nn.Conv2d):
    """A convolution that covers the image at once, as the matrix product that it is.

    Libraries look for a convolution's inner loops where there are none: on two cores of an EPYC (Zen 5) the
    product takes a third of the time forwards, a fifth backwards.
    """

    def __init__(self, in_channels: int, out_channels: int, size: tuple[int, int], bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, *size)`` -> ``(B, out_channels, 1, 1)``."""
        last = _is_channels_last(self.weight)
        y: Tensor = linear(_rows(x, last), _rows(self.weight, last), self.bias)
        return y[:, :, None, None]


class PixelToImage(nn.ConvTranspose2d):
    """A transposed convolution of one pixel, without bias: a matrix product too."""

    def __init__(self, in_channels: int, out_channels: int, size: tuple[int, int]) -> None:
        super().__init__(in_channels, out_channels, size, bias=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``(B, in_channels, 1, 1)`` -> ``(B, out_channels, *size)``."""
        last, planes, (height, width) = _is_channels_last(self.weight), self.out_channels, self.kernel_size
        y = linear(x.flatten(1), _rows(self.weight, last).t())
        if last:
            return y.view(-1, height, width, planes).permute(0, 3, 1, 2)
        return y.view(-1, planes, height, width)


def _is_channels_last(x: Tensor) -> bool:
    """Whether the numbers of a pixel lie together."""
    return x.stride(1) == 1


def _rows(x: Tensor, channels_last: bool) -> Tensor:
    """``(N, C, H, W)`` -> ``(N, C * H * W)``, in the order in which the numbers lie in memory."""
    return (x.permute(0, 2, 3, 1) if channels_last else x).flatten(1)
