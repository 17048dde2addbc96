"""Samples of the jobs of a sweep side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from genlab.sweep import OK, Job

_COLUMNS = 3
_GAP = 24  # pixels between pictures
_STRIP = 40  # pixels above a picture that its caption is written on
_NUMBERED = re.compile(r"samples_(\d+)\.png")
_USUAL = 25  # samples: a grid of so many is taken before a larger one


def find_samples(sweep: Path, jobs: Mapping[str, Job]) -> dict[str, Path]:
    """The grid of samples of each of ``jobs``, by their names, that has one: of 25 or else the largest."""
    grids = {name: _grids(sweep / job.folder) for name, job in jobs.items() if job.status == OK}
    return {name: sizes.get(_USUAL, sizes[max(sizes)]) for name, sizes in grids.items() if sizes}


def _grids(run: Path) -> dict[int, Path]:
    """The grids of samples by how many there are in them."""
    matches = [(_NUMBERED.fullmatch(path.name), path) for path in run.glob("figures/*")]
    return {int(match[1]): path for match, path in matches if match}


def draw_samples(grids: Mapping[str, Path], path: Path) -> bool:
    """Write the ``grids`` by caption as one picture ``path``; whether there were any."""
    if not grids:
        return False
    pictures = [Image.open(grid).convert("RGB") for grid in grids.values()]
    width = max(picture.width for picture in pictures) + _GAP
    height = max(picture.height for picture in pictures) + _STRIP + _GAP
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * width + _GAP, rows * height), "white")
    for i, (caption, picture) in enumerate(zip(grids, pictures, strict=True)):
        x, y = _GAP + i % columns * width, i // columns * height
        _write(whole, caption, x, y, width - _GAP)
        whole.paste(picture, (x, y + _STRIP))
    whole.save(path)
    return True


def _write(whole: Image.Image, caption: str, x: int, y: int, width: int) -> None:
    """The caption above a picture, as large as fits."""
    size = 24
    while ImageFont.load_default(size).getlength(caption) > width and size > 10:
        size -= 1
    font = ImageFont.load_default(size)
    ImageDraw.Draw(whole).text((x, y + _STRIP // 2), caption, "black", font, anchor="lm")
