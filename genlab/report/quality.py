"""Figures of the quality of samples: FID over epochs, and which classes they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from genlab.report.figures import blank, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ["tab:blue", "0.7"]
_MOST_LABELS = 12  # that a curve has room for
_WIDE = 20  # ratio of the largest value to the smallest, beyond which an axis is logarithmic


def fid_curve(curves: Mapping[str, Sequence[tuple[int, float]]], title: str) -> Figure:
    """FID over epochs: points ``(epoch, FID)`` by stage."""
    with styled(**{"axes.axisbelow": True}):
        figure = blank(6, 3.8)
        axes = figure.subplots()
        for stage, points in curves.items():
            axes.plot(*zip(*points, strict=True), marker="o", ms=5, label=stage)
            if len(points) <= _MOST_LABELS:
                _write_values(axes, points)
        values = [value for points in curves.values() for _, value in points]
        if 0 < min(values) < max(values) / _WIDE:
            axes.set_yscale("log")
            axes.margins(x=0.1, y=0.12)
        else:
            axes.margins(x=0.1)
            axes.set_ylim(0, 1.15 * max(values) or 1)
        _mark_epochs(axes, sorted({epoch for points in curves.values() for epoch, _ in points}))
        axes.set(xlabel="epoch", ylabel="FID")
        axes.set_title(title, fontsize=10, loc="left")
        if len(curves) > 1:
            axes.legend(frameon=False)
    return figure


def class_bars(shares: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Bars of the shares of classes, each set's beside the others'; the first set is the one in colour."""
    from matplotlib.ticker import MaxNLocator

    count = len(next(iter(shares.values())))
    width = 0.8 / len(shares)
    with styled(**{"axes.grid.axis": "y", "axes.axisbelow": True}):
        figure = blank(max(6.0, 1 + 0.35 * count), 3.6)
        axes = figure.subplots()
        for i, (name, values) in enumerate(shares.items()):
            places = [c + (i - (len(shares) - 1) / 2) * width for c in range(count)]
            axes.bar(places, values, width, label=name, color=_COLOURS[i % len(_COLOURS)])
        axes.set_xticks(range(count), [str(c) for c in range(count)], fontsize=9)
        axes.tick_params(axis="x", length=0)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        axes.set(xlabel="class", ylabel="share of images", xlim=(-0.6, count - 0.4))
        axes.set_title(title, fontsize=10, loc="left")
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
    return figure


def _write_values(axes: Axes, points: Sequence[tuple[int, float]]) -> None:
    for epoch, value in points:
        text = f"{value:.1f}" if value >= 10 else f"{value:.3g}"
        axes.annotate(text, (epoch, value), (3, 5), textcoords="offset points", fontsize=9)


def _mark_epochs(axes: Axes, epochs: Sequence[int]) -> None:
    """Ticks at the very epochs, where they are few."""
    from matplotlib.ticker import MaxNLocator

    if len(epochs) <= _MOST_LABELS:
        axes.set_xticks(epochs)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
