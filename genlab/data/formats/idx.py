"""The IDX format of MNIST and the sets made in its likeness."""

from __future__ import annotations

import math
import struct
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from genlab.config import Count, config
from genlab.data.images import Images, Split
from genlab.data.store import Store
from genlab.errors import DataError
from genlab.types import DataSpec


@config
class Idx:
    """A pair of IDX files per split, named as MNIST's are (LeCun et al. 1998): grey images, labels."""

    kind: Literal["idx"]
    height: Count
    """Pixels."""
    width: Count
    """Pixels."""
    num_classes: Count
    """Labels are whole numbers from 0 to below it."""

    def files(self, split: Split) -> tuple[str, str]:
        """Images, labels."""
        prefix = {"train": "train", "test": "t10k"}[split]
        return (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")

    def spec(self, store: Store) -> DataSpec:
        """As declared."""
        return DataSpec(1, self.height, self.width, self.num_classes)

    def read(self, split: Split, store: Store) -> Images:
        """Raises :class:`DataError` where a header and its file disagree."""
        images, labels = (_read_idx(name, store) for name in self.files(split))
        return Images(images.unsqueeze(1), labels.long())


Subset = Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"]
_NUM_CLASSES: dict[Subset, int] = {
    "byclass": 62,
    "bymerge": 47,
    "balanced": 47,
    "letters": 26,
    "digits": 10,
    "mnist": 10,
}


@config
class Emnist:
    """EMNIST (Cohen et al. 2017): IDX files in six subsets, each image stored transposed."""

    kind: Literal["emnist"]
    subset: Subset = "balanced"
    """Which of the six ways to choose and merge classes."""

    def files(self, split: Split) -> tuple[str, str]:
        """Images, labels."""
        prefix = f"emnist-{self.subset}-{split}"
        return (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")

    def spec(self, store: Store) -> DataSpec:
        """Known from the paper."""
        return DataSpec(1, 28, 28, _NUM_CLASSES[self.subset])

    def read(self, split: Split, store: Store) -> Images:
        """Upright images; the labels of ``letters``, stored as 1 to 26, start at 0 like all others."""
        images, labels = (_read_idx(name, store) for name in self.files(split))
        first = 1 if self.subset == "letters" else 0
        return Images(images.transpose(1, 2).unsqueeze(1), labels.long() - first)


_NO_HEADER = 1 << 16
"""How much of a file is unzipped that doesn't begin as it should, to tell a broken one from another one."""


def _read_idx(name: str, store: Store) -> Tensor:
    """An array of bytes, with as many dimensions as the ``idxN`` in ``name`` says."""
    ndim = int(name[name.index("-idx") + 4])
    content = store.content(name, lambda head: 4 + 4 * ndim + math.prod(_shape(head, ndim) or (_NO_HEADER,)))
    where = f"dataset {store.config.name}: {name}"
    shape = _shape(content, ndim)
    if shape is None:
        raise DataError(f"{where} is corrupt: it doesn't start as an IDX file of {ndim} dimensions")
    promised, actual = math.prod(shape), len(content) - 4 - 4 * ndim
    if promised != actual:
        sizes = "x".join(map(str, shape))
        more = "or more " if actual > promised else ""
        raise DataError(f"{where} is corrupt: {sizes} bytes promised, {actual} {more}there")
    if not promised:
        raise DataError(f"{where}: no images ({'x'.join(map(str, shape))} bytes)")
    array = np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)
    return torch.from_numpy(array.copy())


def _shape(content: bytes, ndim: int) -> tuple[int, ...] | None:
    """What the header promises; ``None`` where there is no header."""
    if len(content) < 4 + 4 * ndim or content[:4] != bytes([0, 0, 8, ndim]):
        return None
    return struct.unpack_from(f">{ndim}I", content, 4)
