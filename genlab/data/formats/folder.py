"""The user's own images: a folder of PNG, JPEG and the like."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import torch
from annotated_types import Gt, Lt
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from genlab.config import config
from genlab.data.fetch import log
from genlab.data.images import SPLITS, Images, Split, part_of
from genlab.data.store import Store
from genlab.errors import ConfigError, DataError
from genlab.memory import check_room
from genlab.types import DataSpec

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_FORMATS = ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"]
"""What a file may be, whatever its name: PIL would hand PostScript to another program."""
_ORIENTED = {"JPEG", "MPO", "WEBP"}
"""Those to be turned as their EXIF data say; MPO is what many phones' JPEG is, and PIL turns TIFF by itself."""

T = TypeVar("T")


@config
class Folder:
    """``dataset.root`` has ``train/`` and ``test/``, or holds the images itself.

    Subfolders are classes, numbered by name; images without subfolders have no labels. All are made
    RGB (``dataset.grayscale`` converts them), transparency is dropped, of an animation the first picture is
    taken, and photographs are turned upright as their EXIF data say; ``dataset.image_size`` crops each to its
    central square and resizes that, and is required where sizes differ.
    """

    kind: Literal["folder"]
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.1
    """The share of a single folder that a fixed permutation sets aside for the test."""
    on_error: Literal["raise", "skip"] = "raise"
    """What to do about an image that can't be read; those skipped are counted in the log."""

    def files(self, split: Split) -> tuple[str, ...]:
        """None: they have no other source than ``dataset.root``."""
        return ()

    def spec(self, store: Store) -> DataSpec:
        """From the folders' names; where ``image_size`` is not set, from the images' headers.

        Raises:
            ConfigError: the sizes differ.
            DataError: no images, or one with a broken header.
        """
        num_classes = len(_classes(_base("train", store))) or None
        if size := store.config.image_size:
            return DataSpec(3, size, size, num_classes)
        paths = sorted({*self._paths("train", store), *self._paths("test", store)})
        height, width = _common_size(self._each(_header_size, paths))
        return DataSpec(3, height, width, num_classes)

    def read(self, split: Split, store: Store) -> Images:
        """In the order of their names. Raises as :meth:`spec` does."""
        decode = functools.partial(_decode, size=store.config.image_size)
        found = self._paths(split, store)
        images, paths = _filled(self._each(decode, found), len(found))
        classes, base = _classes(_base("train", store)), _base(split, store)
        if not classes:
            return Images(images)
        names = [path.relative_to(base).parts[0] for path in paths]
        if unknown := set(names) - set(classes):
            raise DataError(f"{base}: class '{min(unknown)}' is not in train")
        return Images(images, torch.tensor([classes.index(name) for name in names]))

    def _paths(self, split: Split, store: Store) -> list[Path]:
        base = _base(split, store)
        folders = [base / name for name in _classes(base)]
        loose = _image_files(base.iterdir())
        if folders and loose:
            raise DataError(f"{base} holds both images and class folders, such as {loose[0].name}")
        paths = loose or [path for folder in folders for path in _image_files(folder.rglob("*"))]
        if not paths:
            raise DataError(f"{base}: no images ({', '.join(sorted(_SUFFIXES))})")
        if base != store.own_root():
            return paths
        return [paths[i] for i in part_of(len(paths), split, self.test_fraction)]

    def _each(self, read: Callable[[Path], T], paths: Sequence[Path]) -> Iterator[tuple[Path, T]]:
        broken: list[Path] = []
        for path in paths:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of odd metadata, which decide nothing
                    warnings.simplefilter("error", Image.DecompressionBombWarning)
                    value = read(path)
            except Exception as error:  # broken images raise anything
                if self.on_error == "raise":
                    way_out = "remove it, or set dataset.format.on_error=skip"
                    raise DataError(f"{path} can't be read ({error}); {way_out}") from error
                broken.append(path)
                continue
            yield path, value
        if len(broken) == len(paths):
            raise DataError(f"none of {len(broken)} images can be read, such as {broken[0]}")
        if broken:
            log.warning("skipped %d images that can't be read, such as %s", len(broken), broken[0])


def _base(split: Split, store: Store) -> Path:
    """The folder of ``split``; the same for both where a fixed permutation splits it."""
    root = store.own_root()
    if not root.is_dir():
        raise DataError(f"dataset.root={root}: not a folder")
    missing = [name for name in SPLITS if not (root / name).is_dir()]
    if len(missing) == 1:
        raise DataError(f"{root}: no folder '{missing[0]}' beside the other split's")
    return root if missing else root / split


def _classes(base: Path) -> list[str]:
    return sorted(p.name for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))


def _image_files(paths: Iterable[Path]) -> list[Path]:
    named = (p for p in paths if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in named if p.is_file())  # a pipe would be waited for


def _common_size(sizes: Iterable[tuple[Path, tuple[int, int]]]) -> tuple[int, int]:
    """The one ``(height, width)``."""
    (first, size), *others = sizes
    for path, other in others:
        _same_size(first, size, path, other)
    return size


def _same_size(first: Path, size: tuple[int, int], path: Path, other: tuple[int, int]) -> None:
    if other != size:
        a, b = (f"{h}x{w}" for h, w in (size, other))
        raise ConfigError(f"sizes differ: {first} is {a}, {path} is {b}; set dataset.image_size")


def _filled(read: Iterable[tuple[Path, np.ndarray]], count: int) -> tuple[Tensor, list[Path]]:
    """At most ``count`` images, which are read one by one, as one tensor; their paths."""
    images, paths, first = np.empty(0), list[Path](), (0, 0)
    for path, image in read:
        height, width = image.shape[:2]
        if not paths:
            check_room(count * 3 * height * width, str(path.parent))
            first, images = (height, width), np.empty((count, 3, height, width), np.uint8)
        _same_size((paths or [path])[0], first, path, (height, width))
        images[len(paths)] = image.transpose(2, 0, 1)
        paths.append(path)
    return torch.from_numpy(images[: len(paths)]), paths


def _header_size(path: Path) -> tuple[int, int]:
    with Image.open(path, formats=_FORMATS) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation) if image.format in _ORIENTED else None
        height, width = image.height, image.width
    return (width, height) if orientation in range(5, 9) else (height, width)


def _decode(path: Path, size: int | None) -> np.ndarray:
    """Uint8 ``(H, W, 3)``, at ``size`` where that is set."""
    with Image.open(path, formats=_FORMATS) as image:
        rgb = _to_rgb(ImageOps.exif_transpose(image) if image.format in _ORIENTED else image)
    return np.asarray(rgb if size is None else ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # PIL would clip these at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of PIL's mode {image.mode}, whose range is unknown")
    if image.mode == "P":  # PIL warns of palettes with transparency that are made RGB at once
        image = image.convert("RGBA")
    return image.convert("RGB")
