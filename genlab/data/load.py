"""From the settings of a dataset to its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from genlab.data.config import DatasetConfig
from genlab.data.fetch import reason_of
from genlab.data.images import SPLITS, Images, Split, to_gray, to_mutated, to_square, to_static
from genlab.data.store import Store
from genlab.errors import ConfigError, DataError
from genlab.types import DataSpec


def data_spec(config: DatasetConfig) -> DataSpec:
    """The shape of the images that :func:`load_images` gives, without reading any.

    Raises:
        ConfigError: the settings don't fit the set.
        DataError: the user's own images aren't there, or their headers are broken.
    """
    with _one_line(config):
        return _converted(config.format.spec(Store(config)), config)


def _converted(spec: DataSpec, config: DatasetConfig) -> DataSpec:
    if config.grayscale and spec.channels not in (1, 3):
        raise ConfigError(f"dataset.grayscale=true: {spec.channels} channels are neither grey nor RGB")
    channels = 1 if config.grayscale else spec.channels
    height, width = (config.image_size or side for side in (spec.height, spec.width))
    return replace(spec, channels=channels, height=height, width=width)


def ensure_available(config: DatasetConfig, splits: Sequence[Split] = SPLITS) -> None:
    """Fetch what is missing and verify all files of ``splits``.

    Raises:
        ConfigError: the settings don't fit the set.
        DataError: a file is to be had nowhere; the message lists every source and its reason.
    """
    data_spec(config)
    store = Store(config)
    for name in dict.fromkeys(name for split in splits for name in config.format.files(split)):
        store.content(name)


def load_images(config: DatasetConfig, split: Split) -> Images:
    """All images of ``split``, fetched where missing, verified, converted as ``config`` says.

    Raises:
        ConfigError: the settings don't fit the set.
        DataError: a file is to be had nowhere, or is corrupt.
    """
    store = Store(config)
    with _one_line(config):
        stored = config.format.spec(store)
        spec = _converted(stored, config)
        loaded = config.format.read(split, store)
    _check(loaded, stored, f"dataset {config.name}, {split}")
    if config.limit is not None and config.limit < len(loaded):
        loaded = loaded.take(torch.arange(config.limit))  # by copy: a slice would keep all the others in memory
    # What an image was before a conversion is let go at once: of a large set there is room for few.
    if config.grayscale and loaded.images.shape[1] == 3:
        loaded = replace(loaded, images=to_gray(loaded.images))
    if loaded.images.shape[2:] != (spec.height, spec.width):
        loaded = replace(loaded, images=to_square(loaded.images, spec.height))
    if config.mutation_rate and split == "train":
        loaded = replace(loaded, images=to_mutated(loaded.images, config.mutation_rate))
    if config.binarization == "static":
        loaded = replace(loaded, images=to_static(loaded.images, split))
    images = loaded.images
    return replace(loaded, images=images.contiguous() if isinstance(images, Tensor) else images)


@contextmanager
def _one_line(config: DatasetConfig) -> Iterator[None]:
    """What the operating system refuses, such as an unreadable folder, as a :class:`DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"dataset {config.name}: {error.filename}: {reason_of(error)}") from error


def _check(loaded: Images, spec: DataSpec, where: str) -> None:
    """Hold what a file contained against what was promised of it."""
    shape = tuple(loaded.images.shape[1:])
    if shape != spec.shape:
        raise DataError(f"{where}: images of shape {shape}, not {spec.shape}")
    if len(loaded) == 0:
        raise DataError(f"{where}: no images")
    if loaded.labels is None or spec.num_classes is None:
        if (loaded.labels is None) != (spec.num_classes is None):
            raise DataError(f"{where}: labels in only one of train and test")
        return
    if len(loaded.labels) != len(loaded):
        raise DataError(f"{where}: {len(loaded)} images but {len(loaded.labels)} labels")
    low, high = int(loaded.labels.min()), int(loaded.labels.max())
    if low < 0 or high >= spec.num_classes:
        raise DataError(f"{where}: labels {low} to {high}, not within 0 to {spec.num_classes - 1}")
