"""Omniglot: two zip files of black-on-white PNGs."""

from __future__ import annotations

import io
import zipfile
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import torch
from PIL import Image

from genlab.config import config
from genlab.data.images import Images, Split
from genlab.data.store import Store
from genlab.errors import DataError
from genlab.memory import check_room
from genlab.types import DataSpec

_BACKGROUND_CHARACTERS, _EVALUATION_CHARACTERS = 964, 659


@config
class Omniglot:
    """Omniglot (Lake et al. 2015), 105x105, inverted so that the ink is bright.

    Train is the authors' background set, test their evaluation set. These are different alphabets:
    the 1,623 characters are numbered through, 0 to 963 in train, 964 to 1,622 in test.
    """

    kind: Literal["omniglot"]

    def files(self, split: Split) -> tuple[str, ...]:
        """One zip."""
        return ("images_background.zip" if split == "train" else "images_evaluation.zip",)

    def spec(self, store: Store) -> DataSpec:
        """Known from the paper."""
        return DataSpec(1, 105, 105, _BACKGROUND_CHARACTERS + _EVALUATION_CHARACTERS)

    def read(self, split: Split, store: Store) -> Images:
        """Sorted by alphabet, character and drawer."""
        name = self.files(split)[0]
        content = store.content(name)
        try:
            images, labels = _read_zip(content)
        except Exception as error:  # broken zips and PNGs raise anything
            raise DataError(f"dataset {store.config.name}: {name} is corrupt ({error})") from error
        first = 0 if split == "train" else _BACKGROUND_CHARACTERS
        return Images(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels) + first)


def _read_zip(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        names = sorted(name for name in zipped.namelist() if name.endswith(".png"))
        check_room(len(names) * 105 * 105, "Omniglot")
        images = np.empty((len(names), 105, 105), np.uint8)
        for image, name in zip(images, names, strict=True):
            with zipped.open(name) as file, Image.open(file, formats=["PNG"]) as png:
                if png.size != (105, 105):
                    raise ValueError(f"{name} has {png.width}x{png.height} pixels")
                image[:] = 255 - np.asarray(png.convert("L"))
    _, labels = np.unique([str(PurePosixPath(name).parent) for name in names], return_inverse=True)
    return images, labels.astype(np.int64)
