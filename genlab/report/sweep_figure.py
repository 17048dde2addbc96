"""The figure of a sweep: every whole metric against the swept values, one panel each."""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullLocator

from genlab.report.figures import STYLE, save
from genlab.sweep import OK, Job, swept_keys, whole_metrics

_SEED = "seed"
_UNITS = {
    "bits_per_dim": "bits/dim",
    **dict.fromkeys(("log_prob", "elbo", "nelbo", "iwae", "kl", "reconstruction"), "nats per image"),
    **dict.fromkeys(("log_det", "log_prior", "iwae_se", "nelbo_se"), "nats per image"),
    **dict.fromkeys(("mutual_information", "kl_max", "kl_min", "kl_se", "reconstruction_se"), "nats"),
}
"""By the last part of a metric's name, without a number of samples: ``iwae_50`` is an ``iwae``."""

_NUMBER = re.compile(r"_\d+")

Points = Mapping[float, Sequence[float]]
"""Values by their place on the x axis: several where seeds were swept."""


@dataclass(frozen=True)
class Axis:
    """Where the values of a key lie: numbers at their own place, text in the order of its appearance."""

    key: str
    places: Mapping[str, float]
    numeric: bool

    @property
    def scale(self) -> dict[str, Any]:
        """Logarithmic where values span more than a decade, with room for zero where there is one."""
        places = self.places.values()
        positive = [x for x in places if x > 0]
        if not self.numeric or min(places) < 0 or not positive or max(positive) <= 10 * min(positive):
            return {"value": "linear"}
        return {"value": "symlog", "linthresh": min(positive)} if 0 in places else {"value": "log"}


def draw_sweep(jobs: Sequence[Job], path: Path) -> bool:
    """Draw the jobs that are done as ``path.png`` and ``path.svg``; whether there was anything to draw."""
    done = [job for job in jobs if job.status == OK]
    keys = swept_keys(jobs)
    metrics = [
        name
        for name in whole_metrics(done)
        if any(math.isfinite(job.metrics.get(name, math.nan)) for job in done)
    ]
    if not keys or not metrics:
        return False
    axis = _axis(keys, done)
    others = [key for key in keys if key not in (axis.key, _SEED)]
    with mpl.rc_context(STYLE):
        figure = _figure(done, axis, others, metrics)
        save(figure, path)
    return True


def _axis(keys: Sequence[str], jobs: Sequence[Job]) -> Axis:
    """The first key that is a number, otherwise the first; the seed where there is nothing else."""
    candidates = [key for key in keys if key != _SEED] or [_SEED]
    values = {key: list(dict.fromkeys(job.settings.get(key, "") for job in jobs)) for key in candidates}
    for key in candidates:
        numbers = [_number(text) for text in values[key]]
        if None not in numbers:
            return Axis(key, dict(zip(values[key], numbers, strict=True)), numeric=True)  # type: ignore[arg-type]
    key = candidates[0]
    return Axis(key, {text: float(i) for i, text in enumerate(values[key])}, numeric=False)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _figure(jobs: Sequence[Job], axis: Axis, others: Sequence[str], metrics: Sequence[str]) -> Figure:
    columns = min(3 if len(metrics) <= 9 else 4, len(metrics))
    rows = -(-len(metrics) // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Figure(figsize=(max(4.8, 4 * columns), 2.8 * rows), layout=layout)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    names = list(dict.fromkeys(_name(job, others) for job in jobs))
    colours = _colours(len(names))
    for axes, metric in zip(panels, metrics, strict=False):
        for i, name in enumerate(names):
            members = [job for job in jobs if _name(job, others) == name]
            shift = 0.0 if axis.numeric else 0.5 * ((i + 0.5) / len(names) - 0.5)
            _line(axes, _points(members, axis, metric, shift), axis, name, colours[i])
        _dress(axes, axis, metric)
    for axes in panels[len(metrics) :]:
        axes.remove()
    _explain(figure, panels[0], jobs, axis, others)
    return figure


def _name(job: Job, others: Sequence[str]) -> str:
    if len(others) == 1:  # the key is the legend's title
        return job.settings.get(others[0], "")
    return ", ".join(f"{key.rpartition('.')[2]}={job.settings.get(key, '')}" for key in others)


def _colours(count: int) -> list[Any]:
    if count <= 10:
        return [f"C{i}" for i in range(count)]
    return [mpl.colormaps["viridis"](i / (count - 1)) for i in range(count)]


def _points(jobs: Sequence[Job], axis: Axis, metric: str, shift: float) -> Points:
    points = defaultdict(list)
    for job in jobs:
        value = job.metrics.get(metric, math.nan)
        if math.isfinite(value):
            points[axis.places[job.settings.get(axis.key, "")] + shift].append(value)
    return dict(sorted(points.items()))


def _line(axes: Axes, points: Points, axis: Axis, name: str, colour: Any) -> None:
    """Means, joined by a line unless the axis has no order; of several seeds each one and their spread."""
    places = list(points)
    means = [statistics.fmean(values) for values in points.values()]
    spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in points.values()]
    axes.plot(places, means, "o-" if axis.numeric else "o", color=colour, label=name, markersize=5)
    if not any(spread):
        return
    if axis.numeric and len(places) > 1:
        low, high = zip(*((m - s, m + s) for m, s in zip(means, spread, strict=True)), strict=True)
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    else:
        axes.errorbar(places, means, spread, fmt="none", ecolor=colour, capsize=3, alpha=0.5)
    for x, values in points.items():
        axes.plot([x] * len(values), values, "o", color=colour, markersize=3, alpha=0.5, markeredgewidth=0)


def _dress(axes: Axes, axis: Axis, metric: str) -> None:
    axes.set_title(metric, fontsize=10)
    kind = "" if axis.scale["value"] == "linear" else " (log scale)"
    axes.set(xlabel=axis.key + kind, ylabel=_unit(metric))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xscale(**axis.scale)
    axes.margins(x=0.08, y=0.12)
    if axis.numeric:
        axes.set_xticks(*_ticks(axes, axis))
    else:
        long = sum(map(len, axis.places)) > 36
        tilt: Any = {"rotation": 20, "ha": "right", "rotation_mode": "anchor"} if long else {}
        axes.set_xticks(list(axis.places.values()), list(axis.places), **tilt)
        axes.set_xlim(-0.5, len(axis.places) - 0.5)
    axes.xaxis.set_minor_locator(NullLocator())


def _ticks(axes: Axes, axis: Axis) -> tuple[list[float], list[str]]:
    """The swept values themselves, but for those whose label would touch the one before."""
    labels = {x: text for text, x in axis.places.items()}
    places = sorted(labels)
    drawn = axes.xaxis.get_transform().transform(places)
    width = (drawn[-1] - drawn[0]) or 1.0
    kept = [0]
    for i in range(1, len(places)):
        room = 0.013 * (len(labels[places[i]]) + len(labels[places[kept[-1]]]) + 2)  # of a label in a panel
        if (drawn[i] - drawn[kept[-1]]) / width > room:
            kept.append(i)
    return [places[i] for i in kept], [labels[places[i]] for i in kept]


def _explain(figure: Figure, panel: Axes, jobs: Sequence[Job], axis: Axis, others: Sequence[str]) -> None:
    """Name the lines, and say what was averaged."""
    if others:
        handles, labels = panel.get_legend_handles_labels()
        title = others[0] if len(others) == 1 else None
        columns = min(len(labels), int(figure.get_figwidth() / (0.7 + 0.085 * max(map(len, labels)))) or 1)
        rows = -(-len(labels) // columns) + bool(title)
        figure.set_figheight(figure.get_figheight() + 0.25 * rows)  # the panels keep their size
        figure.legend(handles, labels, title=title, loc="outside lower center", ncols=columns, frameon=False)
    seeds = list(dict.fromkeys(job.settings.get(_SEED, "") for job in jobs))
    if axis.key != _SEED and len(seeds) > 1:
        shown = f"seeds {', '.join(seeds)}" if len(seeds) <= 5 else f"{len(seeds)} seeds"
        figure.set_figheight(figure.get_figheight() + 0.3)
        figure.suptitle(
            f"mean over {shown} ± standard deviation; small dots: each seed", fontsize=10, color="0.35"
        )


def _unit(metric: str) -> str:
    return _UNITS.get(_NUMBER.sub("", metric.rpartition("/")[2]), "")
