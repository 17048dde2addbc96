"""Models of a code for each image and a likelihood of pixels for each code."""

from __future__ import annotations

import torch
from torch import Tensor

from genlab.models.base import UnconditionalModel
from genlab.nets.pixels import PixelLikelihood


class Autoencoder(UnconditionalModel):
    """What follows from :meth:`encode`, :meth:`planes` and a pixel likelihood."""

    pixels: PixelLikelihood

    def encode(self, x: Tensor) -> Tensor:
        """The code ``(B, D)`` of each uint8 image."""
        raise NotImplementedError

    def planes(self, codes: Tensor) -> Tensor:
        """What the decoder says of codes: the parameters of the pixels' likelihood ``(..., planes, H, W)``."""
        raise NotImplementedError

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The mean image of each code ``(B, D)``, uint8."""
        return self.pixels.mean(self.planes(z))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean image of the code of ``x``, uint8."""
        return self.decode(self.encode(x))
