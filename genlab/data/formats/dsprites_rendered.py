"""The factor grid of dSprites, drawn here: no file, no network."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from genlab.config import Count, config
from genlab.data.bits import pack
from genlab.data.formats.dsprites import FACTOR_NAMES, NUM_SHAPES
from genlab.data.images import CHUNK, Images, Split, shuffled_part_of
from genlab.data.store import Store
from genlab.types import DataSpec

_Bools: TypeAlias = npt.NDArray[np.bool_]
_Floats: TypeAlias = npt.NDArray[np.float64]

_SAMPLES = 8  # a pixel is white where at least half of 8x8 points in it are inside the shape

_HEART_CENTRE = (math.sqrt(2) - 1) / (3 - math.sqrt(2))
_HEART_RADIUS = math.sqrt(2) * (1 + _HEART_CENTRE)


@config
class DspritesRendered:
    """All combinations of shape, scale, orientation and position, white on black; labels are shapes.

    The grid is that of dSprites (Matthey et al. 2017), its shapes are not: a square, an ellipse and a heart
    that stay within a circle of a quarter of the image as they turn, and move by whole pixels. As there,
    the last orientation is a full turn, the same as the first; of the squares, small ones above all, some
    more look alike that are turned by less than a pixel. A fixed permutation makes the split, and images
    come in its order.
    """

    kind: Literal["dsprites_rendered"]
    size: Annotated[int, Ge(16)] = 64
    """Pixels a side."""
    num_scales: Count = 6
    """From a half to 1."""
    num_orientations: Count = 40
    """From 0 to a full turn."""
    num_positions: Count = 32
    """In each direction; x grows to the right, y downwards."""
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.1
    """The share that the permutation sets aside for the test."""

    factor_names: ClassVar[tuple[str, ...]] = FACTOR_NAMES

    def __post_init__(self) -> None:
        """Positions differ by a pixel at least."""
        if self.num_positions > self.size // 2:
            raise ValueError(f"num_positions={self.num_positions}: at most half the size of {self.size}")

    @property
    def grid(self) -> tuple[int, ...]:
        """How many values each factor has."""
        return (NUM_SHAPES, self.num_scales, self.num_orientations, self.num_positions, self.num_positions)

    def files(self, split: Split) -> tuple[str, ...]:
        """None."""
        return ()

    def spec(self, store: Store) -> DataSpec:
        """As declared."""
        return DataSpec(1, self.size, self.size, NUM_SHAPES)

    def read(self, split: Split, store: Store) -> Images:
        """Packed images; no more are drawn than ``dataset.limit`` asks for."""
        part = shuffled_part_of(math.prod(self.grid), split, self.test_fraction)[: store.config.limit]
        factors = torch.from_numpy(np.stack(np.unravel_index(part.numpy(), self.grid), axis=1)).long()
        images = pack(self._draw(factors.numpy()), len(factors), (1, self.size, self.size))
        return Images(images, factors[:, 0].contiguous(), factors, self.factor_names)

    def _draw(self, factors: np.ndarray) -> Iterator[Tensor]:
        """The images of ``factors`` ``(N, 5)``: windows on a sprite in the middle of a larger canvas."""
        travel = self.size // 2 - 1
        steps = np.rint(np.linspace(0, travel, self.num_positions)).astype(np.int64)
        sprites = _sprites(self.num_scales, self.num_orientations, self.size - travel)
        canvas = np.pad(sprites, ((0, 0), (travel, travel), (travel, travel)))
        windows = np.lib.stride_tricks.sliding_window_view(canvas, (self.size, self.size), axis=(1, 2))
        for start in range(0, len(factors), CHUNK):
            *which, x, y = factors[start : start + CHUNK].T
            sprite = np.ravel_multi_index(which, self.grid[:3])
            yield torch.from_numpy(windows[sprite, travel - steps[y], travel - steps[x]]).unsqueeze(1)


@functools.lru_cache(maxsize=1)
def _sprites(num_scales: int, num_orientations: int, side: int) -> _Bools:
    """Bool ``(3 * num_scales * num_orientations, side, side)``: each sprite in the middle of its square."""
    points = (np.arange(side * _SAMPLES) + 0.5) / _SAMPLES - side / 2
    right, up = np.meshgrid(points, -points)
    turned = []
    for angle in np.linspace(0, 2 * np.pi, num_orientations) % (2 * np.pi):  # a full turn is exactly none
        cos, sin = np.cos(angle), np.sin(angle)
        turned.append((cos * right + sin * up, cos * up - sin * right))
    radii = np.linspace(0.5, 1, num_scales) * (side / 2 - 0.75)
    sprites = [
        _covers(is_inside(x / radius, y / radius))
        for is_inside in (_square, _ellipse, _heart)
        for radius in radii
        for x, y in turned
    ]
    return np.stack(sprites)


def _covers(points: _Bools) -> _Bools:
    side = len(points) // _SAMPLES
    share: _Floats = points.reshape(side, _SAMPLES, side, _SAMPLES).mean(axis=(1, 3))
    return share >= 0.5


# Shapes that fill a circle of radius 1 around 0: whether (x, y), y upwards, is inside.


def _square(x: _Floats, y: _Floats) -> _Bools:
    return np.maximum(np.abs(x), np.abs(y)) <= math.sqrt(0.5)


def _ellipse(x: _Floats, y: _Floats) -> _Bools:
    return x**2 + (2 * y) ** 2 <= 1


def _heart(x: _Floats, y: _Floats) -> _Bools:
    """A square of side 2 on its corner, with half a disc of radius 1 on each of its upper sides."""
    half = _HEART_RADIUS * math.sqrt(0.5)
    u, v = half * (y + x) + _HEART_CENTRE, half * (y - x) + _HEART_CENTRE
    in_square = np.maximum(np.abs(u), np.abs(v)) <= 1
    return in_square | ((u - 1) ** 2 + v**2 <= 1) | (u**2 + (v - 1) ** 2 <= 1)
