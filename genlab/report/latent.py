"""Figures of codes: a map of them, and how much each dimension carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from genlab.report.figures import blank, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("blue", "orange", "green", "red", "purple", "brown", "pink", "gray", "olive", "cyan")
_CATEGORIES = [f"tab:{name}" for name in _COLOURS]
_ACTIVE, _INACTIVE = _CATEGORIES[0], "0.75"
_FEWEST_BARS, _MOST_BARS = 8, 64  # that a figure has room for


def kl_bars(kl: Tensor, active: Tensor, threshold: float, title: str) -> Figure:
    """KL of each dimension ``(D,)``, the largest first, the active ones coloured."""
    order = kl.argsort(descending=True)[:_MOST_BARS]
    many = len(order) > 20
    with styled(**{"axes.grid.axis": "y", "axes.axisbelow": True}):
        figure = blank(max(5.5, 1 + 0.2 * len(order)), 3.6)
        axes = figure.subplots()
        colours = [_ACTIVE if on else _INACTIVE for on in active[order].tolist()]
        axes.bar(range(len(order)), kl[order].tolist(), color=colours, width=0.8)
        axes.set_xticks(
            range(len(order)), [str(d) for d in order.tolist()], rotation=90 if many else 0, fontsize=9
        )
        axes.tick_params(axis="x", length=0)
        middle, reach = (len(order) - 1) / 2, max(len(order), _FEWEST_BARS) / 2
        axes.set_xlim(middle - reach - 0.1, middle + reach + 0.1)
        shown = "" if len(order) == len(kl) else f", the {len(order)} of largest KL"
        axes.set_xlabel(f"latent dimension, sorted by KL{shown}")
        axes.set_ylabel("KL(q(z$_d$|x) || N(0, 1)), nats")
        axes.set_title(title, fontsize=10, loc="left")
        _explain_bars(figure, int(active.sum()), len(kl), threshold)
    return figure


def _explain_bars(figure: Figure, active: int, count: int, threshold: float) -> None:
    from matplotlib.lines import Line2D

    condition = f"Var$_x$ E[z$_d$|x] > {threshold:g}"
    names = {_ACTIVE: f"active: {condition} ({active})", _INACTIVE: f"inactive ({count - active})"}
    handles = [Line2D([], [], marker="s", ls="", ms=8, color=colour, label=n) for colour, n in names.items()]
    figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=2, fontsize=9)


def code_map(points: Tensor, axes_labels: tuple[str, str], by: Mapping[str, Tensor], title: str) -> Figure:
    """Codes ``(N, 2)``, one panel for each of the values ``by`` name, int64 ``(N,)``, that colour them."""
    columns = min(3, max(1, len(by)))
    rows = -(-max(1, len(by)) // columns)
    with styled(**{"axes.axisbelow": True}):
        figure = blank(5.6 if columns == 1 else 4.2 * columns, (4.9 if columns == 1 else 3.7) * rows)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (name, values) in zip(panels, by.items(), strict=False):
            _scatter(axes, points, name, values)
        if not by:
            panels[0].scatter(*points.T.numpy(), color=_ACTIVE, **_dots(len(points)))
        for axes in panels[max(1, len(by)) :]:
            axes.remove()
        for axes in figure.axes[: max(1, len(by))]:
            axes.set(xlabel=axes_labels[0], ylabel=axes_labels[1])
            axes.set_aspect("equal", adjustable="datalim")
        figure.suptitle(title, fontsize=10, x=0.02, ha="left")
    return figure


def _dots(count: int) -> dict[str, Any]:
    # As pixels within the SVG: thousands of paths would make it slow to open.
    return {"s": 9 if count > 500 else 18, "alpha": 0.75, "linewidths": 0, "rasterized": True}


def _scatter(axes: Axes, points: Tensor, name: str, values: Tensor) -> None:
    """A few labels as figures of their own colour; otherwise dots, and a bar of colours in their order."""
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize

    (x, y), known = points.T.numpy(), values.unique()
    if name == "label" and len(known) <= len(_CATEGORIES):
        for colour, value in zip(_CATEGORIES, known.tolist(), strict=False):
            same = (values == value).numpy()
            # Its own name as a marker: told apart with any colour vision, and no legend to go to.
            glyph: Any = {"marker": f"${value}$", "s": 26, "linewidths": 0.2, "alpha": 0.8, "rasterized": True}
            axes.scatter(x[same], y[same], color=colour, **glyph)
        return
    low, high = int(known[0]), int(known[-1])
    steps = high - low + 1
    if steps <= 10:  # a colour of its own for each
        colours: Colormap = ListedColormap(mpl.colormaps["viridis"].resampled(steps)(range(steps)))
        norm: Any = BoundaryNorm([low + i - 0.5 for i in range(steps + 1)], steps)
    else:
        colours, norm = mpl.colormaps["viridis"], Normalize(low, high)
    axes.scatter(x, y, c=values.numpy(), cmap=colours, norm=norm, **_dots(len(points)))
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, label=name)
    bar.outline.set_visible(False)
    bar.minorticks_off()
    if steps <= 10:
        bar.set_ticks(list(range(low, high + 1)))
