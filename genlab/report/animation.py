"""Pictures of one thing at several times: films of them, and frames of epochs that a folder keeps."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor
from torch.nn import functional as F

from genlab.files import whole
from genlab.report.mosaic import mosaic
from genlab.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

_FRAME, _LAST = 200, 2000  # milliseconds that a frame of a GIF is shown
_STRIP = 28  # pixels of the strip above a frame that its caption is written on
_GREYS = [level // 4 * 255 // 63 for level in range(256)]  # 64 of them make a GIF a third smaller
_MIN_WIDTH = 300  # pixels of a frame that a caption fits above


@dataclass(frozen=True)
class Frame:
    """A picture of a film and what is written above it."""

    picture: Image.Image
    caption: str


@dataclass(frozen=True)
class EpochFrame(Frame):
    """A picture and when in the training it was drawn."""

    epoch: int
    step: int


class Frames:
    """The files ``<prefix>epoch_0001.png`` of ``folder``; they outlive the process, and so does a run."""

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self.folder, self.prefix = folder, prefix

    def save(self, picture: Tensor, epoch: int, step: int) -> None:
        """Write the frame of an epoch, uint8 ``(3, H, W)``."""
        about = PngImagePlugin.PngInfo()
        about.add_text("step", str(step))
        with whole(self.folder / f"{self.prefix}epoch_{epoch:04d}.png") as part:
            as_picture(picture).save(part, format="PNG", pnginfo=about)

    def read(self, last_epoch: int, limit: int) -> list[EpochFrame]:
        """At most ``limit`` frames, evenly spaced, the first and the one nearest to ``last_epoch`` among them.

        A frame that a killed run left half written is left out, and so are those of another size, of a run
        that went on with other settings.
        """
        named = re.compile(re.escape(self.prefix) + r"epoch_(\d+)\.png")
        matches = [(named.fullmatch(path.name), path) for path in self.folder.iterdir()]
        found = sorted((int(match[1]), path) for match, path in matches if match)
        # What comes later was drawn by a continuation that was given up.
        chosen = evenly([(epoch, path) for epoch, path in found if epoch <= last_epoch], limit)
        frames = [frame for epoch, path in chosen if (frame := _read(epoch, path)) is not None]
        return [frame for frame in frames if frame.picture.size == frames[-1].picture.size]


def _read(epoch: int, path: Path) -> EpochFrame | None:
    try:
        with Image.open(path) as image:
            image.load()
            return EpochFrame(image.copy(), f"epoch {epoch}", epoch, int(image.info["step"]))
    except (OSError, SyntaxError, ValueError, KeyError):  # each is raised by some half of a PNG
        return None


def as_picture(pixels: Tensor) -> Image.Image:
    """Uint8 ``(3, H, W)``, in grey where all of it is."""
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    grey = torch.equal(pixels, pixels[:1].expand_as(pixels))
    return picture.convert("L") if grey else picture  # a third of the size


def evenly(values: Sequence[T], limit: int) -> Sequence[T]:
    """At most ``limit`` of ``values``, at least 2, with the first and the last.

    >>> evenly(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(values) <= limit:
        return values
    return [values[i * (len(values) - 1) // (limit - 1)] for i in range(limit)]


def save_gif(frames: Sequence[Frame], path: Path) -> None:
    """Write an endless film, each frame under its caption; nothing of fewer than two."""
    if len(frames) < 2:
        return
    first, *others = [_captioned(frame) for frame in frames]
    durations = [*[_FRAME] * len(others), _LAST]
    with whole(path) as part:
        first.save(part, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)


def _captioned(frame: Frame) -> Image.Image:
    picture = frame.picture.point(_GREYS) if frame.picture.mode == "L" else frame.picture
    whole = Image.new(picture.mode, (picture.width, picture.height + _STRIP), "white")
    whole.paste(picture, (0, _STRIP))
    ImageDraw.Draw(whole).text(
        (8, _STRIP // 2 + 2), frame.caption, "black", ImageFont.load_default(18), anchor="lm"
    )
    return whole


def over_epochs(frames: Sequence[EpochFrame], folder: RunFolder) -> Figure:
    """Frames side by side under their epochs, and the FIDs that the run has logged there."""
    pictures = torch.stack([_pixels(frame.picture) for frame in frames])
    captions = ["\n".join([f"epoch {frame.epoch}", *_fids(folder, frame.step)]) for frame in frames]
    return mosaic(pictures[None], [""], captions, "Samples of the same noise over epochs", gap=24)


def _pixels(picture: Image.Image) -> Tensor:
    """Uint8 ``(3, H, W)``, with white beside a picture too narrow for its caption."""
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    missing = max(0, _MIN_WIDTH - picture.width)
    return F.pad(pixels, (missing // 2, missing - missing // 2), value=255)


def _fids(folder: RunFolder, step: int) -> list[str]:
    with folder.metrics.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["step"] == str(step)]
    names = [row["name"].split("/") for row in rows]
    return [
        f"FID {float(row['value']):.3g} ({name[1]})"
        for name, row in zip(names, rows, strict=True)
        if name[0] == "fid" and len(name) == 2  # a third part names another measure
    ]
