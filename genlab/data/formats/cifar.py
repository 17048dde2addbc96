"""CIFAR-10 in its "python version": six pickles, read without trusting them."""

from __future__ import annotations

import io
import pickle
from typing import Any, Literal

import numpy as np
import torch

from genlab.config import config
from genlab.data.images import Images, Split
from genlab.data.store import Store
from genlab.errors import DataError
from genlab.types import DataSpec


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
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        images = np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        return images, np.asarray(batch[b"labels"], dtype=np.int64)
    except Exception as error:  # broken pickles raise anything
        raise DataError(f"dataset {store.config.name}: {name} is corrupt ({error})") from error


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that calls nothing but what rebuilds a numpy array."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case ("numpy", "ndarray" | "dtype"):
                return getattr(np, name)
            case ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                return np.empty(0).__reduce__()[0]  # wherever this numpy keeps it
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
