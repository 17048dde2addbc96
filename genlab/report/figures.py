"""Figures of a run, as PNG and SVG side by side."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from genlab.run_folder import RunFolder

DPI = 150
"""Pixels per inch of every PNG."""

STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
}
"""What every figure looks like; for :func:`matplotlib.rc_context`."""


def grid(images: Tensor) -> Tensor:
    """Uint8 images ``(N, C, H, W)`` -> one grid ``(3, H', W')`` as square as can be, enlarged to be seen."""
    columns = math.ceil(len(images) ** 0.5)
    factor = max(1, 112 // images.shape[-1])
    large = images.cpu().repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    picture: Tensor = make_grid(large, nrow=columns, padding=2 * factor, pad_value=255)
    return picture


def save_grid(images: Tensor, path: Path) -> None:
    """Write the grid of ``images`` as PNG."""
    mpl.image.imsave(path, grid(images).permute(1, 2, 0).contiguous().numpy(), format="png")


def save(figure: Figure, path: Path) -> None:
    """Write ``path.png`` and ``path.svg``."""
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(path.with_suffix(".png"), dpi=DPI)
        figure.savefig(path.with_suffix(".svg"))


def as_image(figure: Figure) -> Tensor:
    """``figure`` as pixels, uint8 ``(3, H, W)``, for TensorBoard."""
    canvas: Any = FigureCanvasAgg(figure)  # its methods carry no annotations
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def histograms(scores: Mapping[str, Tensor], label: str, title: str, path: Path) -> None:
    """Distributions of ``scores`` by set, over the range that holds nearly all of them."""
    every = torch.cat([values[values.isfinite()] for values in scores.values()])
    low, high = np.quantile(every.numpy(), 0.002), every.max().item()
    bins = int(np.clip(len(every) ** 0.5, 10, 100))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 4))
        axes = figure.subplots()
        for name, values in scores.items():
            axes.hist(
                values.numpy(),
                bins=bins,
                range=(low, high),
                density=True,
                histtype="stepfilled",
                alpha=0.45,
                label=name,
            )
        axes.set(xlabel=label, ylabel="density", title=title)
        axes.legend(frameon=False)
        save(figure, path)


def loss_curves(folder: RunFolder) -> None:
    """Every term of ``metrics.csv`` that has a training curve, with its validation beside it."""
    curves: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    with folder.metrics.open(newline="") as file:
        for row in csv.DictReader(file):
            split, _, term = row["name"].partition("/")
            if split in ("train", "val"):
                curves[term][split].append((int(row["step"]), float(row["value"])))
    if not curves:
        return
    with mpl.rc_context(STYLE):
        columns = min(3, len(curves))
        rows = -(-len(curves) // columns)
        figure = Figure(figsize=(4 * columns, 2.8 * rows))
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for axes, (term, splits) in zip(panels, curves.items(), strict=False):
            for split, points in splits.items():
                axes.plot(*zip(*points, strict=True), label=split, marker="." if len(points) < 30 else None)
            axes.set(title=term, xlabel="step")
            axes.legend(frameon=False)
        for axes in list(figure.axes)[len(curves) :]:
            axes.remove()
        save(figure, folder.folder("figures") / "loss_curves")
