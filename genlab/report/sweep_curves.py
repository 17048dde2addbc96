"""The loss curves of a sweep: one panel for each loss, or for each job where losses do not compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genlab.report.figures import STYLE, Curve, Terms, read_curves, save
from genlab.report.sweep_table import labels
from genlab.run_folder import RunFolder
from genlab.sweep import OK, Job, swept_keys

_MOST = 20
"""Lines that can be told apart in one panel, and panels that are looked at."""


def draw_curves(sweep: Path, jobs: Sequence[Job], path: Path) -> bool:
    """Draw the jobs of the folder ``sweep`` that are done as ``path.png`` and ``.svg``; whether any were.

    Where models are swept, each minimises something else: every job has a panel of its own.
    """
    keys = swept_keys(jobs)
    named = zip(labels(jobs), jobs, strict=True)
    losses = {name: _losses(sweep / job.folder) for name, job in named if job.status == OK}
    losses = {name: terms for name, terms in losses.items() if terms}
    if not keys or not losses or len(losses) > _MOST:
        return False
    with mpl.rc_context(STYLE):
        save(_by_job(losses) if "model" in keys else _by_term(losses), path)
    return True


def _losses(run: Path) -> Terms:
    folder = RunFolder(run)
    return read_curves(folder).get("loss", {}) if folder.metrics.is_file() else {}


def _by_job(losses: Mapping[str, Terms]) -> Figure:
    """A panel for each job, a colour for each of its terms."""
    columns = min(3, len(losses))
    rows = -(-len(losses) // columns)
    figure = Figure(figsize=(4.2 * columns, 3 * rows))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, terms) in zip(panels, losses.items(), strict=False):
        _draw(axes, name, terms)
        axes.legend(frameon=True, framealpha=0.8, edgecolor="none", fontsize=8)
    for axes in panels[len(losses) :]:
        axes.remove()
    return figure


def _by_term(losses: Mapping[str, Terms]) -> Figure:
    """A panel for each term, a colour for each job."""
    terms = list(dict.fromkeys(term for curves in losses.values() for term in curves))
    figure = Figure(figsize=(max(5.5, 4.5 * len(terms)), 3.6 + 0.2 * len(losses)))
    panels = figure.subplots(1, len(terms), squeeze=False)[0]
    for axes, term in zip(panels, terms, strict=True):
        _draw(axes, term, {name: curves.get(term, {}) for name, curves in losses.items()})
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", frameon=False, fontsize=8)
    return figure


def _draw(axes: Axes, title: str, lines: Terms) -> None:
    """A line for each name; validation solid and training faint, where there are both."""
    for i, (name, splits) in enumerate(lines.items()):
        for split, points in splits.items():
            faint = split == "train" and "val" in splits
            axes.plot(
                *zip(*points, strict=True),
                color=mpl.colormaps["tab20"](i) if len(lines) > 10 else f"C{i}",
                alpha=0.35 if faint else 1.0,
                label=None if faint else name,
                marker="." if len(points) == 1 else None,
            )
    axes.set(title=title, xlabel="step")
    axes.set_ylim(top=_top([points for splits in lines.values() for points in splits.values()]))


def _top(curves: Sequence[Curve]) -> float | None:
    """Where the curves are after a tenth of all steps: where they began would leave no room for the rest."""
    last = max(step for points in curves for step, _ in points)
    settled = [value for points in curves for step, value in points if step >= last / 10]
    low, high = min(settled), max(settled)
    return high + 0.05 * (high - low) if high > low else None
