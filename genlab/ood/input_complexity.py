"""The likelihood relative to how well an image compresses."""

from __future__ import annotations

import bz2
import io
import lzma
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, features
from torch import Tensor

from genlab.config import config
from genlab.data import DatasetConfig
from genlab.likelihood import LEVELS
from genlab.models.base import Model
from genlab.ood.base import Score, View, needs_likelihood
from genlab.registry import SCORES
from genlab.types import Batch

Name = Literal["png", "webp", "jpeg2000", "zlib", "bz2", "lzma"]
Levels = npt.NDArray[np.uint8]
"""One image, ``(H, W)`` of grey ones and ``(H, W, 3)`` of coloured ones."""

_NATS_PER_BYTE = 8 * math.log(2)
_FEATURES = {"webp": "webp", "jpeg2000": "jpg_2000"}  # what Pillow may have been built without
# Made for files: of its dictionary of eight megabytes an image needs little, and clearing it takes longest.
_LZMA = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**20}]


@config
class InputComplexityConfig:
    """``compressors``: each image is measured by the one that suits it best."""

    compressors: tuple[Name, ...] = ("png", "webp", "jpeg2000", "zlib", "bz2", "lzma")

    def __post_init__(self) -> None:
        """At least one, and all of them at hand."""
        if not self.compressors:
            raise ValueError("compressors: name at least one, [png] for instance")
        for name in self.compressors:
            if name in _FEATURES and not features.check(_FEATURES[name]):
                raise ValueError(f"compressors: this Pillow was built without {name}; leave it out")


@SCORES.register("input_complexity")
class InputComplexity(Score):
    """``log p(x) + L(x)``, with ``L`` the length of the image under a lossless compressor, in nats.

    ``exp(-L)`` is a density too, of images in general: this is a likelihood ratio against it.

    References:
        Serrà et al. 2020, "Input complexity and out-of-distribution detection with likelihood-based generative
        models" (the shortest of several compressors).
    """

    Config = InputComplexityConfig
    options: InputComplexityConfig

    def obstacle(self, model: type[Model], dataset: DatasetConfig) -> str | None:
        """A likelihood of pixels."""
        return needs_likelihood(model)

    def missing(self, view: View) -> str | None:
        """The 256 levels that a compressor sees."""
        if view.model.levels == LEVELS:
            return None
        return f"needs a likelihood of {LEVELS} levels, and this model sees {view.model.levels}"

    def __call__(self, view: View) -> Mapping[str, Tensor]:
        """One: nats per image."""

        def length(batch: Batch) -> Tensor:
            return complexity(batch.x, self.options.compressors)

        return {"input_complexity": view.log_density() + view.measure("complexity", length)}


def complexity(x: Tensor, compressors: Sequence[Name]) -> Tensor:
    """Length of uint8 ``(B, C, H, W)`` under the best of ``compressors``, nats per image, float64 ``(B,)``.

    From every length that of a black image is subtracted. Headers differ between formats by up to a hundred
    bytes, a third of a small image: with them, the format with the shortest would always be best.
    """
    images = [_levels(image) for image in x.cpu()]
    black = np.zeros_like(images[0])
    lengths = [
        [len(compress(image)) - len(compress(black)) for image in images]
        for compress in (_COMPRESSORS[name] for name in compressors)
    ]
    return _NATS_PER_BYTE * torch.tensor(lengths, dtype=torch.float64).amin(0)


def _levels(image: Tensor) -> Levels:
    """``(C, H, W)`` as a picture; channels that are no colours stand below each other."""
    levels: Levels = image.permute(1, 2, 0).numpy() if len(image) == 3 else image.flatten(0, 1).numpy()
    return levels


def _picture(kind: str, levels: Levels, **options: Any) -> bytes:
    """The file of that kind."""
    file = io.BytesIO()
    Image.fromarray(levels).save(file, kind, **options)
    return file.getvalue()


def _bytes(compress: Callable[[bytes], bytes], levels: Levels) -> bytes:
    """The levels row by row, compressed."""
    return compress(levels.tobytes())


_COMPRESSORS: Mapping[Name, Callable[[Levels], bytes]] = {
    "png": partial(_picture, "PNG", optimize=True),
    "webp": partial(_picture, "WEBP", lossless=True, quality=100, method=4),
    "jpeg2000": partial(_picture, "JPEG2000", irreversible=False),
    "zlib": partial(_bytes, partial(zlib.compress, level=9)),
    "bz2": partial(_bytes, partial(bz2.compress, compresslevel=9)),
    "lzma": partial(_bytes, partial(lzma.compress, format=lzma.FORMAT_RAW, filters=_LZMA)),
}
