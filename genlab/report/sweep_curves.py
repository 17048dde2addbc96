"""The loss curves of a sweep: one panel for each loss, one line for each job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genlab.report.figures import STYLE, Curve, Terms, read_curves, save
from genlab.run_folder import RunFolder
from genlab.sweep import OK, Job, swept_keys

_MOST = 20
"""Lines that can be told apart in one panel."""


def draw_curves(sweep: Path, jobs: Sequence[Job], path: Path) -> bool:
    """Draw the jobs of the folder ``sweep`` that are done as ``path.png`` and ``.svg``; whether any were."""
    keys = swept_keys(jobs)
    losses = {_label(job, keys): _losses(sweep / job.folder) for job in jobs if job.status == OK}
    terms = list(dict.fromkeys(term for curves in losses.values() for term in curves))
    if not keys or not terms or len(losses) > _MOST:
        return False
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(5.5, 4.5 * len(terms)), 3.6 + 0.2 * len(losses)))
        panels = figure.subplots(1, len(terms), squeeze=False)[0]
        for axes, term in zip(panels, terms, strict=True):
            _draw(axes, term, losses)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", frameon=False, fontsize=8)
        save(figure, path)
    return True


def _losses(run: Path) -> Terms:
    folder = RunFolder(run)
    return read_curves(folder).get("loss", {}) if folder.metrics.is_file() else {}


def _draw(axes: Axes, term: str, losses: Mapping[str, Terms]) -> None:
    """Validation solid and training faint, where a job has both."""
    for i, (label, curves) in enumerate(losses.items()):
        splits = curves.get(term, {})
        for split, points in splits.items():
            faint = split == "train" and "val" in splits
            axes.plot(
                *zip(*points, strict=True),
                color=mpl.colormaps["tab20"](i) if len(losses) > 10 else f"C{i}",
                alpha=0.35 if faint else 1.0,
                label=None if faint else label,
            )
    axes.set(title=term, xlabel="step")
    axes.set_ylim(top=_top([points for curves in losses.values() for points in curves.get(term, {}).values()]))


def _top(curves: Sequence[Curve]) -> float | None:
    """Where the curves are after a tenth of all steps: where they began would leave no room for the rest."""
    last = max(step for points in curves for step, _ in points)
    settled = [value for points in curves for step, value in points if step >= last / 10]
    low, high = min(settled), max(settled)
    return high + 0.05 * (high - low) if high > low else None


def _label(job: Job, keys: Sequence[str]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={job.settings.get(key, '')}" for key in keys)
