"""Which pixels a coupling shows to its network: images of 1 (shown) and 0 (moved)."""

from __future__ import annotations

import torch
from torch import Tensor


def checkerboard(height: int, width: int) -> Tensor:
    """``(1, H, W)``: 1 on the squares of the upper left corner's colour, 0 on the other colour.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP", section 3.4 and figure 3.

    >>> checkerboard(2, 3)
    tensor([[[1., 0., 1.],
             [0., 1., 0.]]])
    """
    row, column = torch.arange(height)[:, None], torch.arange(width)
    return 1.0 - (row + column)[None] % 2


def upper_rows(height: int, width: int) -> Tensor:
    """``(1, H, W)``: 1 on the upper half of the rows (with the middle one), 0 on the lower.

    >>> upper_rows(3, 2)
    tensor([[[1., 1.],
             [1., 1.],
             [0., 0.]]])
    """
    upper = torch.arange(height) < (height + 1) // 2
    return upper.float()[None, :, None].expand(1, height, width).contiguous()
