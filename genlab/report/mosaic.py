"""Rows of images with labels, drawn so that every pixel of an image is a whole number of pixels wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from genlab.report.figures import DPI, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE = 80  # pixels that the side of an image is brought near to
_MARGIN = 15
_LINE = 27  # pixels of a line of text
_CHARACTER = 11.5  # pixels of a character of a label, on average
_MARK = "#e69f00"


def mosaic(
    images: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    gap: int = 4,
    group: int = 1,
    marked: Sequence[int | None] = (),
) -> Figure:
    """A figure of images, uint8 ``(R, K, C, H, W)``, under ``title``.

    Args:
        images: by row and column.
        rows: a label before each row.
        columns: a label above each column, of one line or several; none where empty.
        title: broken into lines where it is too long.
        gap: pixels between images.
        group: rows that belong together; a wider gap follows them.
        marked: the column of the image to frame, for each row.
    """
    from matplotlib.patches import Rectangle

    factor = max(1, round(_SIDE / max(images.shape[-2:])))
    height, width = (factor * side for side in images.shape[-2:])
    lefts = [k * (width + gap) for k in range(images.shape[1])]
    tops = [r * (height + gap) + r // group * 4 * gap * (group > 1) for r in range(len(images))]
    canvas = _canvas(images, factor, lefts, tops)

    left = 2 * _MARGIN + round(_CHARACTER * max(map(len, rows), default=0))
    lines = textwrap.wrap(title, int((left + canvas.shape[1]) / _CHARACTER))
    top = _MARGIN + _LINE * (len(lines) + max((label.count("\n") + 1 for label in columns), default=0))
    figure, axes = _frame(canvas, left, top)
    figure.text(
        _MARGIN / (figure.get_figwidth() * DPI),
        1 - 10 / (figure.get_figheight() * DPI),
        "\n".join(lines),
        va="top",
        fontsize=10,
        linespacing=1.25,
    )
    axes.set_yticks([y + height / 2 for y in tops], rows)
    axes.set_xticks([x + width / 2 for x in lefts] if columns else [], columns)
    for row, column in enumerate(marked):
        if column is not None:
            corner = (lefts[column] - 2.5, tops[row] - 2.5)
            box = Rectangle(corner, width + 4, height + 4, fill=False, ec=_MARK, lw=1.4, clip_on=False)
            axes.add_patch(box)
    return figure


def signed(value: float, digits: int) -> str:
    """A number for a label, with its sign unless it rounds to 0."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else "0"


def _canvas(images: Tensor, factor: int, lefts: Sequence[int], tops: Sequence[int]) -> np.ndarray:
    """White where there is no image, uint8 ``(H', W', 3)``."""
    large = images.cpu().repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    pixels = large.permute(0, 1, 3, 4, 2).numpy()
    height, width = pixels.shape[2:4]
    canvas = np.full((tops[-1] + height, lefts[-1] + width, 3), 255, dtype=np.uint8)
    for row, y in zip(pixels, tops, strict=True):
        for image, x in zip(row, lefts, strict=True):
            canvas[y : y + height, x : x + width] = image
    return canvas


def _frame(canvas: np.ndarray, left: int, top: int) -> tuple[Figure, Axes]:
    """A figure with ``canvas`` in its lower right, pixel on pixel."""
    height, width = canvas.shape[:2]
    whole_width, whole_height = left + width + _MARGIN, top + height + _MARGIN
    # A hundredth of a pixel more, lest matplotlib round down to one less.
    figure = blank((whole_width + 0.01) / DPI, (whole_height + 0.01) / DPI, dpi=DPI)
    figure.set_layout_engine("none")
    place = (left / whole_width, _MARGIN / whole_height, width / whole_width, height / whole_height)
    axes = figure.add_axes(place)
    axes.imshow(canvas, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    axes.set_axis_on()
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.tick_params(length=0, labelsize=9, labeltop=True, labelbottom=False, pad=4)
    return figure, axes
