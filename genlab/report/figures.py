"""Figures of a run, as PNG and SVG side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from genlab.files import whole
from genlab.report.run import read_metrics
from genlab.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
"""What every figure looks like."""

_PLACES: tuple[Literal["center"], Literal["left"]] = ("center", "left")
_SHARED = ("loss", "grad_norm", "d")
"""Prefixes of terms that share a panel: those of several parameter groups, a discriminator's two means."""
_LABELS = {"d": "D", "d_real": "D(x)", "d_fake": "D(G(z))", "fid": "FID"}

Curve = list[tuple[int, float]]
Terms = dict[str, dict[str, Curve]]

# Training begins before anything is drawn, so matplotlib is imported where it draws.


def styled(**settings: Any) -> AbstractContextManager[None]:
    """Where figures have :data:`STYLE`, and ``settings`` of matplotlib's beside it."""
    import matplotlib as mpl

    return mpl.rc_context(STYLE | settings)


def blank(width: float, height: float, **options: Any) -> Figure:
    """A figure of so many inches, of no window; ``options`` are matplotlib's."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **options)


def grid(images: Tensor, columns: int | None = None, side: int = 112) -> Tensor:
    """Uint8 images ``(N, C, H, W)`` -> one grid ``(3, H', W')``, enlarged to be seen.

    Args:
        images: row by row.
        columns: of the grid; by default it is as square as can be.
        side: pixels that an image is enlarged to at most.
    """
    columns = min(columns or math.ceil(len(images) ** 0.5), len(images))
    factor = max(1, side // images.shape[-1])
    large = images.cpu().repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    if len(large) == 1:
        return large[0].expand(3, -1, -1)
    # torchvision draws the same, and importing it takes as long as importing torch.
    gap, (height, width) = 2 * factor, large.shape[2:]
    rows = -(-len(large) // columns)
    picture = large.new_full((3, rows * (height + gap) + gap, columns * (width + gap) + gap), 255)
    for i, image in enumerate(large):
        y, x = (
            gap + place * (size + gap) for place, size in zip(divmod(i, columns), (height, width), strict=True)
        )
        picture[:, y : y + height, x : x + width] = image
    return picture


def save_grid(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write the :func:`grid` of ``images`` as PNG."""
    from matplotlib.image import imsave

    with whole(path) as part:
        imsave(part, grid(images, columns).permute(1, 2, 0).contiguous().numpy(), format="png")


def save(figure: Figure, path: Path) -> None:
    """Write ``path.png`` and ``path.svg``, the same bytes for the same figure; both carry its title."""
    import matplotlib as mpl

    about = {"Title": _title(figure)}
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "genlab"}):
        with whole(path.with_suffix(".png")) as part:
            figure.savefig(part, format="png", dpi=DPI, metadata=about)
        with whole(path.with_suffix(".svg")) as part:
            figure.savefig(part, format="svg", metadata=about | {"Date": None})


def _title(figure: Figure) -> str:
    """What stands above the whole figure; nothing where every panel has a title of its own."""
    panels = [title for axes in figure.axes for loc in _PLACES if (title := axes.get_title(loc))]
    whole = [figure.get_suptitle(), *(text.get_text() for text in figure.texts)]
    return " ".join(next(filter(None, [*whole, *(panels if len(panels) == 1 else [])]), "").split())


def as_image(figure: Figure) -> Tensor:
    """``figure`` as pixels, uint8 ``(3, H, W)``, for TensorBoard."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # its methods carry no annotations
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def histograms(scores: Mapping[str, Tensor], label: str, title: str, path: Path) -> None:
    """Distributions of ``scores`` by set; the first set decides how far the axis goes.

    What lies beyond its ends is counted in the last bins.
    """
    finite = {name: values[values.isfinite()].numpy() for name, values in scores.items()}
    low, high = _range([values for values in finite.values() if len(values)])
    bins = int(np.clip(sum(map(len, finite.values())) ** 0.5, 10, 100))
    with styled():
        figure = blank(7, 4)
        axes = figure.subplots()
        for name, values in finite.items():
            beyond = len(values) and ((values < low) | (values > high)).mean() > 0.5
            axes.hist(
                values.clip(low, high),
                bins=bins,
                range=(low, high),
                density=True,
                histtype="stepfilled",
                alpha=0.45,
                label=f"{name} (beyond the axis)" if beyond else name,
            )
        axes.set(xlabel=label, ylabel="density", title=title)
        axes.legend(frameon=False)
        save(figure, path)


def _range(sets: Sequence[np.ndarray]) -> tuple[float, float]:
    """From the first to the last percentile of all sets, but no farther from the first set's than twice the
    width of that: sets that are far away would leave it a line."""
    lows, highs = zip(*(np.quantile(values, (0.005, 0.995)) for values in sets), strict=True)
    room = 2 * (highs[0] - lows[0]) or 1.0
    return max(min(lows), lows[0] - room), min(max(highs), highs[0] + room)


def loss_curves(folder: RunFolder) -> None:
    """Every term of ``metrics.csv`` that has a training curve, with its validation beside it.

    Terms that belong together share a panel; FID and what is measured with it has one for each measure.
    """
    panels = read_curves(folder)
    if not panels:
        return
    with styled():
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure = blank(4 * columns, 2.8 * rows)
        every = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (name, terms) in zip(every, panels.items(), strict=False):
            first = next(iter(terms))
            alone = len(terms) == 1 and "fid" not in terms[first]
            (_draw_term if alone else _draw_terms)(axes, terms)
            axes.set(title=first if alone else _LABELS.get(name, name), xlabel="step")
            axes.legend(frameon=not alone, framealpha=0.8, edgecolor="none")
            if name == "fid" and 0 < axes.dataLim.y0 < axes.dataLim.y1 / 20:
                axes.set_yscale("log")  # else the end of a curve that falls so far can't be read
        for axes in every[len(panels) :]:
            axes.remove()
        save(figure, folder.folder("figures") / "loss_curves")


def read_curves(folder: RunFolder) -> dict[str, Terms]:
    """The curves of ``metrics.csv`` by panel, term and split: points of step and value."""
    panels: dict[str, Terms] = {}
    for name, points in read_metrics(folder.metrics).items():
        split, _, term = name.partition("/")
        panel = _panel(term)
        if split == "fid":
            term, _, measure = term.partition("/")
            panel = measure or "fid"
        if split in ("train", "val", "fid"):
            curve = [(point.step, point.value) for point in points]
            panels.setdefault(panel, {}).setdefault(term, {})[split] = curve
    return panels


def _panel(term: str) -> str:
    """The panel of a term: its own, or one that it shares with others of its prefix."""
    return next((prefix for prefix in _SHARED if term.startswith(f"{prefix}_")), term)


def _draw_term(axes: Axes, terms: Terms) -> None:
    """One term, a colour for each split."""
    (splits,) = terms.values()
    for split, points in splits.items():
        axes.plot(*zip(*points, strict=True), label=split, marker=_marker(points))


def _draw_terms(axes: Axes, terms: Terms) -> None:
    """Several terms, a colour for each, with their validation dashed."""
    for index, (term, splits) in enumerate(terms.items()):
        label, color = _LABELS.get(term, term.removeprefix(f"{_panel(term)}_")), f"C{index}"
        for split, points in splits.items():
            faint = split == "train" and "val" in splits  # lest it hide the validation
            axes.plot(
                *zip(*points, strict=True),
                color=color,
                alpha=0.5 if faint else 1.0,
                linestyle="--" if split == "val" else "-",
                label=None if split == "val" and "train" in splits else label,
                marker=_marker(points) if split != "val" or len(points) == 1 else None,
            )
    if any("val" in splits for splits in terms.values()):
        axes.plot([], [], color="grey", linestyle="--", label="val")


def _marker(points: Curve) -> str | None:
    return "." if len(points) < 30 else None
