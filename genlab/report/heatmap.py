"""A matrix as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from genlab.report.figures import blank, save, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_READABLE = 16  # rows: of more, neither numbers nor every name could be read


def heatmap(
    values: Tensor, rows: Sequence[str], columns: Sequence[str], label: str, title: str, path: Path
) -> None:
    """Write ``values`` ``(len(rows), len(columns))``, 0 to 1, with a colour bar that ``label`` names."""
    readable = len(rows) <= _READABLE
    with styled(**{"axes.grid": False}):
        figure = blank(2.5 + 0.9 * len(columns), 1.5 + 0.32 * min(len(rows), _READABLE))
        axes = figure.subplots()
        image = axes.imshow(values.numpy(), vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_title(title, wrap=True)
        axes.spines[:].set_visible(False)
        if readable:
            axes.set_yticks(range(len(rows)), rows)
            _write(axes, values)
        figure.colorbar(image, label=label)
        save(figure, path)


def _write(axes: Axes, values: Tensor) -> None:
    """Each value in its cell, in a colour that stands out from the cell's."""
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            colour = "black" if value > 0.6 else "white"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
