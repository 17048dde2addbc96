"""dSprites as published: one ``.npz`` file that would fill 3 GB if it were loaded."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor

from genlab.config import Count, config
from genlab.data.bits import PackedImages, pack
from genlab.data.images import CHUNK, Images, Split, shuffled_part_of
from genlab.data.npy import Array, exactly, open_array
from genlab.data.store import Store
from genlab.errors import DataError
from genlab.types import DataSpec

FACTOR_NAMES = ("shape", "scale", "orientation", "position_x", "position_y")
NUM_SHAPES = 3  # square, ellipse, heart

_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"


@config
class Dsprites:
    """dSprites (Matthey et al. 2017): all combinations of five factors, white on black; labels are shapes.

    The file knows no split: a fixed permutation makes one, and images come in its order.
    """

    kind: Literal["dsprites"]
    size: Count = 64
    """Pixels a side."""
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.1
    """The share that the permutation sets aside for the test."""

    factor_names: ClassVar[tuple[str, ...]] = FACTOR_NAMES

    def files(self, split: Split) -> tuple[str, ...]:
        """The one file, whichever the split."""
        return (_FILE,)

    def spec(self, store: Store) -> DataSpec:
        """As published."""
        return DataSpec(1, self.size, self.size, NUM_SHAPES)

    def read(self, split: Split, store: Store) -> Images:
        """Packed images; the factors' values are numbered from 0, colour (always white) left out.

        Raises:
            DataError: an array is missing, broken or of the wrong shape, or combinations are missing.
        """
        content = store.content(_FILE)
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as zipped:
                factors = _factors(zipped)
                images = _images(zipped, len(factors), self.size)
        except Exception as error:  # broken archives and headers raise anything
            reason = str(error).strip("'\"")
            raise DataError(f"dataset {store.config.name}: {_FILE} is corrupt ({reason})") from error
        part = shuffled_part_of(len(factors), split, self.test_fraction)[: store.config.limit]
        return Images(images, factors[:, 0], factors, self.factor_names).take(part)


def _factors(zipped: zipfile.ZipFile) -> Tensor:
    with _open(zipped, "latents_classes", "i8") as array:
        if len(array.shape) != 2 or array.shape[1] != 1 + len(FACTOR_NAMES) or not array.shape[0]:
            raise ValueError(f"latents_classes has shape {array.shape}")
        content = exactly(array.values, math.prod(array.shape) * 8)
    factors = np.frombuffer(content, "<i8").reshape(array.shape)[:, 1:].astype(np.int64)
    sizes = [int(top) + 1 for top in factors.max(axis=0)]
    if factors.min() < 0 or math.prod(sizes) != len(factors):
        grid = "x".join(map(str, sizes))
        raise ValueError(f"{len(factors)} images are not all combinations of {grid} factors")
    return torch.from_numpy(factors)


def _images(zipped: zipfile.ZipFile, num_images: int, size: int) -> PackedImages:
    with _open(zipped, "imgs", "u1") as array:
        if array.shape != (num_images, size, size):
            raise ValueError(f"imgs has shape {array.shape}, not {(num_images, size, size)}")
        return pack(_chunks(array.values, num_images, size), num_images, (1, size, size))


def _chunks(file: IO[bytes], num_images: int, size: int) -> Iterator[Tensor]:
    """The member's images as they are unzipped: all of them would fill 3 GB."""
    for start in range(0, num_images, CHUNK):
        n = min(CHUNK, num_images - start)
        pixels = np.frombuffer(exactly(file, n * size * size), np.uint8).reshape(n, 1, size, size)
        if pixels.max() > 1:
            raise ValueError("imgs has values other than 0 and 1")
        yield torch.from_numpy(pixels.astype(np.bool_))


@contextmanager
def _open(zipped: zipfile.ZipFile, name: str, dtype: str) -> Iterator[Array]:
    """The array ``name``, whose type must be ``dtype``."""
    with open_array(zipped, f"{name}.npy") as array:
        if array.is_fortran or array.dtype.str not in (f"<{dtype}", f"|{dtype}"):
            raise ValueError(f"{name} is {array.dtype}, or in another order than C's")
        yield array
