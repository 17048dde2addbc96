"""CIFAR-10 in its "python version": six pickles, read without trusting them."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any, Literal

import numpy as np
import torch

from genlab.config import config
from genlab.data.images import Images, Split
from genlab.data.store import Store
from genlab.errors import DataError
from genlab.types import DataSpec

_IMAGE_BYTES = 3 * 32 * 32


@config
class Cifar10:
    """CIFAR-10 (Krizhevsky 2009), as extracted from its archive: 32x32 RGB."""

    kind: Literal["cifar10"]

    def files(self, split: Split) -> tuple[str, ...]:
        """Five batches to train, one to test."""
        return ("test_batch",) if split == "test" else tuple(f"data_batch_{i}" for i in range(1, 6))

    def spec(self, store: Store) -> DataSpec:
        """Known from the paper."""
        return DataSpec(3, 32, 32, 10)

    def read(self, split: Split, store: Store) -> Images:
        """Raises :class:`DataError` where a pickle holds anything but arrays and plain values."""
        batches = [_read_batch(name, store) for name in self.files(split)]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return Images(torch.from_numpy(images), torch.from_numpy(labels))


def _read_batch(name: str, store: Store) -> tuple[np.ndarray, np.ndarray]:
    content = store.content(name)
    try:
        _check_memo(content)
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        images, labels = batch[b"data"].pixels(), batch[b"labels"]
        if type(labels) is not list or any(type(label) is not int for label in labels):
            raise ValueError("its labels are no list of numbers")
        return images, np.array(labels, dtype=np.int64)
    except Exception as error:  # broken pickles raise anything
        raise DataError(f"dataset {store.config.name}: {name} is corrupt ({error})") from error


def _check_memo(content: bytes) -> None:
    """Refuse a number under which the unpickler would remember something and allocate all places below it."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise ValueError(f"it remembers an object by the number {argument}")


class _Token:
    """What stands for numpy's ``ndarray`` and ``dtype`` while a pickle is read; it takes note, no more."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> np.ndarray:
        """Of a pickled array of bytes: uint8 ``(N, 3, 32, 32)``. Raises :class:`ValueError` for another."""
        _, shape, dtype, _, data = self.state
        if dtype.arguments[0] not in ("u1", b"u1") or type(data) is not bytes:
            raise ValueError("its data is no array of bytes")
        if tuple(shape) != (len(data) // _IMAGE_BYTES, _IMAGE_BYTES):
            raise ValueError(f"its data of {len(data)} bytes has shape {tuple(shape)}")
        return np.frombuffer(bytearray(data), np.uint8).reshape(-1, 3, 32, 32)


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that calls nothing, numpy included, whose pickled types may hold any address in memory."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case ("numpy", "ndarray" | "dtype"):
                return _Token
            case ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                return _Token
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
