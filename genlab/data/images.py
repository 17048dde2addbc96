"""Images in memory, and the conversions that every set may be asked for."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genlab.data.bits import PackedImages, Pixels, pack, rows, unpacked

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

CHUNK = 4096
"""Images read, drawn or converted at once: as floats, or unpacked, a whole set would not fit small machines."""


@dataclass(frozen=True)
class Images:
    """A set, or a part of one, on the CPU.

    ``images``: uint8 ``(N, C, H, W)``, or packed where all pixels are black or white; ``labels``: int64
    ``(N,)``; ``factors``: which value each of the known factors of variation has, int64 ``(N, F)`` from 0, and
    ``factor_names``: what the columns are.
    """

    images: Pixels
    labels: Tensor | None = None
    factors: Tensor | None = None
    factor_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor | slice) -> Images:
        """The images at ``index``, with their labels and factors."""
        labels, factors = (
            None if x is None else rows(x, index).contiguous() for x in (self.labels, self.factors)
        )
        return replace(self, images=rows(self.images, index), labels=labels, factors=factors)


def fixed_order(n: int, seed: int = 0) -> Tensor:
    """A permutation of ``0..n-1`` that is the same everywhere and always; int64 ``(n,)``.

    The indices sorted by a hash of them: no library's generator, whose stream may change with its
    version, decides which images are test images.
    """
    keys = bytearray()  # the first half of each hash: ten million as objects would take a gigabyte
    for start in range(0, n, CHUNK):
        numbers = range(start, min(start + CHUNK, n))
        keys += b"".join([hashlib.sha256(b"%d:%d" % (seed, i)).digest()[:16] for i in numbers])
    high, low = np.frombuffer(keys, ">u8").reshape(n, 2).T
    return torch.from_numpy(np.lexsort((low, high)))


def part_of(n: int, split: Split, test_fraction: float) -> Tensor:
    """Which of ``n`` images are in ``split``: ascending int64 indices, by a permutation of their own."""
    test = _test_part(n, max(1, round(n * test_fraction)))
    return test.clone() if split == "test" else all_but(test, n)


@functools.lru_cache(maxsize=1)  # asked for by each split in turn, and slow: a microsecond for each image
def _test_part(n: int, num_test: int) -> Tensor:
    return fixed_order(n)[:num_test].sort().values


def all_but(index: Tensor, n: int) -> Tensor:
    """Those of ``0..n-1`` that ``index`` does not name: ascending, int64."""
    return torch.ones(n, dtype=torch.bool).index_fill_(0, index, False).nonzero().flatten()


def shuffled_part_of(n: int, split: Split, test_fraction: float) -> Tensor:
    """Which of ``n`` images are in ``split``, in the order of a permutation of their own: int64 indices.

    For sets that are laid out as a grid: any first few are spread over all of it. Numpy promises that the
    stream of its legacy generator stays as it is; for a million images it is 30 times as fast as hashing.
    """
    order, num_test = np.random.RandomState(0).permutation(n), max(1, round(n * test_fraction))
    return torch.from_numpy(order[:num_test] if split == "test" else order[num_test:]).long()


def to_static(images: Pixels, split: Split) -> PackedImages:
    """Every pixel drawn once, white with probability ``x / 255``, by a fixed seed for each split.

    The draws are taken one by one in the order of the pixels, from a generator whose stream is frozen: the
    first images come out the same however many follow.
    """
    random = np.random.RandomState(SPLITS.index(split))

    def draw() -> Iterator[Tensor]:
        for x in _chunks(images):
            yield torch.from_numpy(random.random_sample(x.shape) * 255 < x.numpy())

    return pack(draw(), len(images), (images.shape[1], images.shape[2], images.shape[3]))


def to_mutated(images: Pixels, rate: float) -> Tensor:
    """Every pixel replaced by any level with probability ``rate``, once, by a fixed seed.

    Done in place where the images are not packed. One number is drawn for each pixel, in their order: the
    first images come out the same however many follow.

    References:
        Ren et al. 2019, "Likelihood ratios for out-of-distribution detection": what background
        models are trained on.
    """
    random = np.random.RandomState(len(SPLITS))  # other draws than those of to_static

    def mutate(x: Tensor) -> Tensor:
        place = torch.from_numpy(random.random_sample(x.shape) / rate)  # uniform in [0, 1) where below 1
        return torch.where(place < 1, (place * 256).to(torch.uint8), x)

    return _by_chunks(mutate, images, into=images if isinstance(images, Tensor) else None)


def to_gray(images: Pixels) -> Tensor:
    """Luma (ITU-R BT.601, rounded as PIL does): uint8 ``(N, 3, H, W)`` to ``(N, 1, H, W)``."""
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)

    def luma(x: Tensor) -> Tensor:
        weighted = (x.int() * weights).sum(dim=1, keepdim=True)
        return ((weighted + 0x8000) >> 16).to(torch.uint8)

    return _by_chunks(luma, images)


def to_square(images: Pixels, size: int) -> Tensor:
    """The central square, resized with antialiasing: uint8 ``(N, C, H, W)`` to ``(N, C, size, size)``."""
    height, width = images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2

    def convert(x: Tensor) -> Tensor:
        square = x[..., top : top + side, left : left + side]
        if side == size:
            return square
        y = F.interpolate(square.float(), size=(size, size), mode="bilinear", antialias=True)
        return y.round_().clamp_(0, 255).to(torch.uint8)

    return _by_chunks(convert, images)


def _by_chunks(convert: Callable[[Tensor], Tensor], images: Pixels, into: Tensor | None = None) -> Tensor:
    for i, x in enumerate(_chunks(images)):
        part = convert(x)
        if into is None:
            into = torch.empty((len(images), *part.shape[1:]), dtype=torch.uint8)
        into[i * CHUNK : (i + 1) * CHUNK] = part
    return torch.empty(0, dtype=torch.uint8) if into is None else into


def _chunks(images: Pixels) -> Iterator[Tensor]:
    for start in range(0, len(images), CHUNK):
        yield unpacked(images[start : start + CHUNK])
