"""SVHN's cropped digits: one MATLAB file per split."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import torch

from genlab.config import config
from genlab.data.images import Images, Split
from genlab.data.store import Store
from genlab.errors import DataError
from genlab.types import DataSpec


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
        from scipy.io import loadmat

        name = self.files(split)[0]
        content = store.content(name)
        try:
            arrays = loadmat(io.BytesIO(content), variable_names=["X", "y"])
            images = torch.from_numpy(np.ascontiguousarray(arrays["X"].transpose(3, 2, 0, 1)))
            labels = torch.from_numpy(arrays["y"].reshape(-1).astype(np.int64))
        except Exception as error:  # broken MATLAB files raise anything
            raise DataError(f"dataset {store.config.name}: {name} is corrupt ({error})") from error
        labels[labels == 10] = 0
        return Images(images, labels)
