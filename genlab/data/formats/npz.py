"""The user's own arrays in ``.npz`` files."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Gt, Lt
from numpy.lib import format as npy

from genlab.config import config
from genlab.data.images import SPLITS, Images, Split, part_of
from genlab.data.store import Store
from genlab.errors import DataError
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
        labels = arrays.labels()
        both = Images(
            torch.from_numpy(arrays.images()),
            None if labels is None else torch.from_numpy(labels),
        )
        if labels is not None and len(labels) != len(both):
            raise DataError(f"{arrays.path}: {len(both)} images but {len(labels)} labels")
        if root.is_dir():
            return both
        return both.take(part_of(len(both), split, self.test_fraction))


def _path(root: Path, split: Split) -> Path:
    return root / f"{split}.npz" if root.is_dir() else root


@dataclass(frozen=True)
class _Npz:
    """The arrays of one file; a header is held against the file's size before its array is allocated."""

    path: Path

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        shape = self._shape("images", "u1")
        n, c, h, w = [(*shape, 1)[i] for i in _axes(shape, self.path)]
        if n * c * h * w == 0:
            raise DataError(f"{self.path}: no images (shape {shape})")
        return c, h, w

    def images(self) -> np.ndarray:
        shape = self._shape("images", "u1")
        array = self._load("images")
        if array.ndim == 3:
            array = array[..., None]
        return np.ascontiguousarray(array.transpose(_axes(shape, self.path)))

    def labels(self) -> np.ndarray | None:
        with self._open() as zipped:
            if "labels.npy" not in zipped.namelist():
                return None
        shape = self._shape("labels", "iu")
        if len(shape) != 1:
            raise DataError(f"{self.path}: 'labels' has shape {shape}, not (N,)")
        return self._load("labels").astype(np.int64)

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except FileNotFoundError:
            raise DataError(f"{self.path}: no such file") from None
        except zipfile.BadZipFile as error:
            raise DataError(f"{self.path} is corrupt, or no npz file ({error})") from error

    def _load(self, key: str) -> np.ndarray:
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                array: np.ndarray = arrays[key]
                return array
        except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(f"{self.path}: '{key}' is corrupt ({error})") from error

    def _shape(self, key: str, kinds: str) -> tuple[int, ...]:
        """The shape of the array ``key``, whose type must be among ``kinds``."""
        with self._open() as zipped:
            names = [name.removesuffix(".npy") for name in zipped.namelist()]
            if key not in names:
                has = ", ".join(names) or "nothing"
                raise DataError(f"{self.path}: no array '{key}' (it has: {has})")
            try:
                with zipped.open(f"{key}.npy") as file:
                    header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
                    shape, _, dtype = header[npy.read_magic(file)](file)
                    room = zipped.getinfo(f"{key}.npy").file_size - file.tell()
            except (ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise DataError(f"{self.path}: '{key}' is corrupt ({error})") from error
        if dtype.kind not in kinds and dtype.str[1:] not in kinds:
            want = "uint8 (0 to 255)" if key == "images" else "whole numbers"
            raise DataError(f"{self.path}: '{key}' is {dtype}, not {want}")
        if math.prod(shape) * dtype.itemsize != room:
            raise DataError(f"{self.path}: '{key}' is corrupt: shape {shape} in {room} bytes")
        return shape


def _axes(shape: tuple[int, ...], path: Path) -> tuple[int, int, int, int]:
    """How to transpose to ``(N, C, H, W)``, of a shape with a channel axis appended where it has none."""
    if len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3)):
        return (0, 3, 1, 2)
    if len(shape) == 4 and shape[1] in (1, 3):
        return (0, 1, 2, 3)
    raise DataError(
        f"{path}: 'images' has shape {shape}, not (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3"
    )
