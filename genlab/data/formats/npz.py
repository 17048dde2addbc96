"""The user's own arrays in ``.npz`` files."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor

from genlab.config import config
from genlab.data.images import CHUNK, SPLITS, Images, Split, part_of
from genlab.data.npy import Array, exactly, open_array
from genlab.data.store import Store
from genlab.errors import DataError, GenlabError
from genlab.memory import check_room
from genlab.types import DataSpec


@config
class Npz:
    """``dataset.root`` is a folder with ``train.npz`` and ``test.npz``, or a single file.

    A file holds ``images``, uint8 ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)`` with C of 1 or 3,
    and, if there are classes, ``labels``, whole numbers ``(N,)`` from 0.
    """

    kind: Literal["npz"]
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.1
    """The share of a single file that a fixed permutation sets aside for the test."""

    def files(self, split: Split) -> tuple[str, ...]:
        """None: they have no other source than ``dataset.root``."""
        return ()

    def spec(self, store: Store) -> DataSpec:
        """From the headers, and the greatest label.

        Raises:
            DataError: wrong keys, types or shapes; a header that its file doesn't fulfil.
        """
        arrays = [_Npz(path) for path in dict.fromkeys(_path(store.own_root(), s) for s in SPLITS)]
        labels = [a.labels() for a in arrays]
        present = [x for x in labels if x is not None and len(x)]
        num_classes = max(int(x.max()) for x in present) + 1 if present else None
        return DataSpec(*arrays[0].image_shape, num_classes)

    def read(self, split: Split, store: Store) -> Images:
        """Checked as in :meth:`spec`, and loaded without pickles."""
        root = store.own_root()
        arrays = _Npz(_path(root, split))
        labels, count = arrays.labels(), arrays.num_images
        rows = None if root.is_dir() else part_of(count, split, self.test_fraction)
        images = arrays.images(rows)
        if labels is None:
            return Images(images)
        return Images(images, torch.from_numpy(labels if rows is None else labels[rows.numpy()]))


def _path(root: Path, split: Split) -> Path:
    return root / f"{split}.npz" if root.is_dir() else root


@dataclass(frozen=True)
class _Npz:
    """The arrays of one file."""

    path: Path

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        shape = self._stored_shape()
        n, c, h, w = [(*shape, 1)[i] for i in _axes(shape, self.path)]
        if n * c * h * w == 0:
            raise DataError(f"{self.path}: no images (shape {shape})")
        return c, h, w

    @property
    def num_images(self) -> int:
        return self._stored_shape()[0]

    def images(self, rows: Tensor | None) -> Tensor:
        """Uint8 ``(N, C, H, W)``: all, or those at ``rows``, ascending; the others are never held."""
        axes, stop = _axes(self._stored_shape(), self.path), self.num_images
        chosen = np.arange(stop) if rows is None else rows.numpy()
        shape = (len(chosen), *self.image_shape)
        check_room(math.prod(shape), str(self.path))
        images = np.empty(shape, np.uint8)
        start = done = 0
        for block in self._blocks():
            end = int(np.searchsorted(chosen, start + len(block)))
            images[done:end] = block.take(chosen[done:end] - start, axis=0).transpose(axes)
            start, done = start + len(block), end
        return torch.from_numpy(images)

    def _blocks(self) -> Iterator[np.ndarray]:
        """All images in their order, a few at a time: ``(n, H, W, C)`` or ``(n, C, H, W)``."""
        with self._open("images", "u1") as array:
            shape = (*array.shape, 1)[:4]
            if array.is_fortran:  # the first axis runs fastest, so that no image is in one piece
                everything = np.frombuffer(array.values.read(), np.uint8)
                yield everything.reshape(shape, order="F")
                return
            for start in range(0, shape[0], CHUNK):
                part = (min(CHUNK, shape[0] - start), *shape[1:])
                yield np.frombuffer(exactly(array.values, math.prod(part)), np.uint8).reshape(part)

    def labels(self) -> np.ndarray | None:
        with self._zip() as zipped:
            if "labels.npy" not in zipped.namelist():
                return None
        with self._open("labels", "iu") as array:
            if len(array.shape) != 1:
                raise DataError(f"{self.path}: 'labels' has shape {array.shape}, not (N,)")
            if array.shape[0] != self.num_images:
                raise DataError(f"{self.path}: {self.num_images} images but {array.shape[0]} labels")
            return np.frombuffer(array.values.read(), array.dtype).astype(np.int64)

    def _stored_shape(self) -> tuple[int, ...]:
        with self._open("images", "u1") as array:
            return array.shape

    def _zip(self) -> zipfile.ZipFile:
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file")
        try:
            return zipfile.ZipFile(self.path)
        except OSError:
            raise
        except Exception as error:  # broken archives raise anything
            raise DataError(f"{self.path} is corrupt, or no npz file ({error})") from error

    @contextmanager
    def _open(self, key: str, kinds: str) -> Iterator[Array]:
        """The array ``key``, whose type must be among ``kinds``."""
        with self._zip() as zipped:
            names = [name.removesuffix(".npy") for name in zipped.namelist()]
            if key not in names:
                has = ", ".join(names) or "nothing"
                raise DataError(f"{self.path}: no array '{key}' (it has: {has})")
            try:
                with open_array(zipped, f"{key}.npy") as array:
                    self._check(key, array, kinds)
                    yield array
            except GenlabError:
                raise
            except Exception as error:  # broken archives and headers raise anything
                raise DataError(f"{self.path}: '{key}' is corrupt ({error})") from error

    def _check(self, key: str, array: Array, kinds: str) -> None:
        """Hold what a header says against what is wanted."""
        if array.dtype.kind not in kinds and array.dtype.str[1:] not in kinds:
            want = "uint8 (0 to 255)" if key == "images" else "whole numbers"
            raise DataError(f"{self.path}: '{key}' is {array.dtype}, not {want}")


def _axes(shape: tuple[int, ...], path: Path) -> tuple[int, int, int, int]:
    """How to transpose to ``(N, C, H, W)``, of a shape with a channel axis appended where it has none."""
    if len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3)):
        return (0, 3, 1, 2)
    if len(shape) == 4 and shape[1] in (1, 3):
        return (0, 1, 2, 3)
    raise DataError(
        f"{path}: 'images' has shape {shape}, not (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3"
    )
