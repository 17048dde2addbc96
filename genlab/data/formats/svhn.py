"""SVHN's cropped digits: one MATLAB file per split."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from genlab.config import config
from genlab.data.images import Images, Split
from genlab.data.store import Store
from genlab.errors import DataError
from genlab.types import DataSpec

_HEADER_BYTES = 128
_MOST_BYTES = 300_000_000
"""Of an array, inflated; the training images are 225 MB."""
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8"}


@config
class Svhn:
    """SVHN (Netzer et al. 2011), 32x32 RGB; the digit 0, stored as class 10, is class 0."""

    kind: Literal["svhn"]

    def files(self, split: Split) -> tuple[str, ...]:
        """One file."""
        return (f"{split}_32x32.mat",)

    def spec(self, store: Store) -> DataSpec:
        """Known from the paper."""
        return DataSpec(3, 32, 32, 10)

    def read(self, split: Split, store: Store) -> Images:
        """From ``X``, uint8 ``(H, W, C, N)``, and ``y``, ``(N, 1)``."""
        name = self.files(split)[0]
        content = store.content(name)
        try:
            arrays = dict(_arrays(content))
            x, y = arrays["X"], arrays["y"]
            if x.dtype != np.uint8 or x.ndim != 4 or y.shape != (x.shape[3], 1):
                raise ValueError(f"X is {x.dtype} of shape {x.shape}, y of shape {y.shape}")
            labels = torch.from_numpy(y.reshape(-1).astype(np.int64))
        except Exception as error:  # broken MATLAB files raise anything
            raise DataError(f"dataset {store.config.name}: {name} is corrupt ({error})") from error
        labels[labels == 10] = 0
        return Images(torch.from_numpy(np.ascontiguousarray(x.transpose(3, 2, 0, 1))), labels)


def _arrays(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of numbers in a MATLAB 5 file by name, in the order and types that they are stored in.

    Read here, as scipy's reader ends the process where some bytes of a file are wrong.

    Raises:
        ValueError: it is no such file, is cut short, or holds more than these sets do.

    References:
        MathWorks 2019, "MAT-File format", chapter 1.
    """
    if content[124:_HEADER_BYTES] != b"\x00\x01IM":
        raise ValueError("no MATLAB 5 file of a little-endian machine")
    start = _HEADER_BYTES
    while start < len(content):
        kind, element, start = _element(memoryview(content), start)
        if kind == _COMPRESSED:
            inflater = zlib.decompressobj()
            inflated = inflater.decompress(element, _MOST_BYTES)
            if not inflater.eof:
                raise ValueError(f"cut short, or more than {_MOST_BYTES} bytes")
            kind, element, _ = _element(memoryview(inflated), 0)
        if kind == _MATRIX:
            yield _array(element)


def _array(matrix: memoryview) -> tuple[str, np.ndarray]:
    parts: list[tuple[int, memoryview]] = []
    start = 0
    while len(parts) < 4:  # flags, sides, name, values; imaginary parts would follow
        kind, part, start = _element(matrix, start)
        start += -start % 8
        parts.append((kind, part))
    _, (_, sides), (_, name), (kind, values) = parts
    shape = struct.unpack(f"<{len(sides) // 4}i", sides)
    if kind not in _TYPES or min(shape) < 1 or math.prod(shape) * int(_TYPES[kind][2]) != len(values):
        raise ValueError(f"shape {shape} of type {kind} in {len(values)} bytes")
    return bytes(name).decode(), np.frombuffer(values, _TYPES[kind]).reshape(shape, order="F")


def _element(content: memoryview, start: int) -> tuple[int, memoryview, int]:
    """The type and the bytes of an element, and where it ends."""
    kind, size = struct.unpack_from("<II", content, start)
    first = start + 8
    if kind >> 16:  # up to four bytes are put where the size of others is
        kind, size, first = kind & 0xFFFF, kind >> 16, start + 4
    if size > (len(content) - first if first == start + 8 else 4):
        raise ValueError("cut short")
    return kind, content[first : first + size], max(first + size, start + 8)
