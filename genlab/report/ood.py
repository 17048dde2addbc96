"""Figures of out-of-distribution detection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genlab.ood.detection import roc
from genlab.report.figures import blank, save, styled
from genlab.report.mosaic import mosaic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def roc_figure(by_score: Mapping[str, Mapping[str, Tensor]], title: str) -> Figure:
    """A panel for each set, a curve for each score; the first set of each score is the positives."""
    own, *others = next(iter(by_score.values()))
    with styled():
        columns = 2 if len(others) == 4 else min(3, len(others))
        rows = -(-len(others) // columns)
        legend_rows = -(-len(by_score) // columns)
        figure = blank(3.6 * columns, 3.8 * rows + 0.3 + 0.22 * legend_rows)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, name in zip(panels, others, strict=False):
            for i, (score, values) in enumerate(by_score.items()):
                style = "-" if i < 10 else "--"  # there are ten colours
                axes.plot(*roc(values[own], values[name]), label=score, color=f"C{i % 10}", linestyle=style)
            axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
            axes.set(title=name, xlabel=f"{name} taken for the own", ylabel=f"{own} recognised", aspect="equal")
        for axes in panels[len(others) :]:
            axes.remove()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
        figure.suptitle(title, fontsize=10)
        return figure


def draw_extremes(extremes: Mapping[str, Tensor], title: str, path: Path) -> None:
    """Two rows for each set, of its most and its least typical images: uint8 ``(2, K, C, H, W)`` each."""
    count = min(images.shape[1] for images in extremes.values())
    images = torch.cat([each[:, :count] for each in extremes.values()])
    rows = [f"{name}, {kind}" for name in extremes for kind in ("most", "least")]
    save(mosaic(images, rows, [], title, group=2), path)
