"""The report of a sweep: CSV for machines, Markdown and a figure for people, a table on the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genlab.files import write_atomic
from genlab.report.sweep_curves import draw_curves
from genlab.report.sweep_figure import draw_sweep
from genlab.report.table import cell, fits, print_rows
from genlab.sweep import FAILED, OK, UNFINISHED, Job, metric_names, swept_keys, whole_metrics

_MANY = 12
"""Metrics: of more, each has a row of its own."""


def write_report(folder: Path, jobs: Sequence[Job]) -> None:
    """Write ``sweep.csv``, ``sweep.md`` and, if there is something to draw, its figures as PNG and SVG."""
    write_atomic(folder / "sweep.csv", _csv(jobs).encode())
    figures = {
        "![Every metric against the swept values](sweep.png)": draw_sweep(jobs, folder / "sweep"),
        "![Loss curves](sweep_curves.png)": draw_curves(folder, jobs, folder / "sweep_curves"),
    }
    drawn = [figure for figure, there in figures.items() if there]
    write_atomic(folder / "sweep.md", _markdown(jobs, drawn).encode())


def print_report(folder: Path, jobs: Sequence[Job]) -> None:
    """Print the table with as many of the main metrics as fit, why jobs failed, and where the rest is."""
    shown = main_metrics(jobs)
    if len(shown) > _MANY:
        rows = _turned(_rows(jobs, shown))
    else:
        while not fits(rows := _broken(_rows(jobs, shown))) and len(shown) > 1:
            shown = shown[:-1]
    hidden = len(metric_names(jobs)) - len(shown)
    more = f" (with {hidden} more metrics)" if hidden else ""
    print_rows(_title(jobs), rows, [*_notes(jobs), f"{folder / 'sweep.csv'}{more}"])


def main_metrics(jobs: Sequence[Job]) -> list[str]:
    """What was measured at the end, and the validation loss; all of validation where there is nothing else.

    Standard errors and the parts of a metric (``mig/shape`` beside ``mig``) are left to ``sweep.csv``.
    """
    names = metric_names(jobs)
    measured = _grouped([name for name in whole_metrics(jobs) if not name.startswith("val/")])
    return [*measured, *(name for name in names if name == "val/loss")] if measured else names


def _grouped(names: Sequence[str]) -> list[str]:
    """Those that share their first two parts (``ood/typicality``) together, though not every job has all."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        groups.setdefault(tuple(name.split("/")[:2]), []).append(name)
    return [name for group in groups.values() for name in group]


def _title(jobs: Sequence[Job]) -> str:
    return f"Sweep over {', '.join(swept_keys(jobs)) or 'nothing'}: {len(jobs)} jobs"


def _rows(jobs: Sequence[Job], metrics: Sequence[str]) -> list[dict[str, Any]]:
    keys = swept_keys(jobs)
    return [
        {
            "job": job.number,
            **{key: job.settings.get(key) for key in keys},
            **{name: job.metrics.get(name) for name in metrics},
            "seconds": None if job.seconds is None else f"{job.seconds:,.1f}",
            "status": job.status,
        }
        for job in jobs
    ]


def _turned(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A column for each job and a row for each name."""
    names = [name for name in rows[0] if name != "job"]
    return [{"job": name, **{str(row["job"]): row[name] for row in rows}} for name in names]


def _broken(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` under names that are broken into lines at their slashes and dots, to be narrow."""
    return [
        {name.replace("/", "/\n").replace(".", ".\n"): value for name, value in row.items()} for row in rows
    ]


def _notes(jobs: Sequence[Job]) -> list[str]:
    """One for each reason that jobs failed for, and one for each job that can be continued."""
    by_reason: dict[str, list[str]] = {}
    for job in jobs:
        if job.status == FAILED:
            by_reason.setdefault(job.error, []).append(str(job.number))
    failed = [f"failed: {', '.join(numbers)}: {error}" for error, numbers in by_reason.items()]
    unfinished = [f"unfinished: {job.number}: {job.folder}" for job in jobs if job.status == UNFINISHED]
    return failed + unfinished


def _csv(jobs: Sequence[Job]) -> str:
    keys, metrics = swept_keys(jobs), metric_names(jobs)
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["job", "status", *keys, *metrics, "seconds", "folder", "error"])
    for job in jobs:
        settings, values = map(job.settings.get, keys), map(job.metrics.get, metrics)
        table.writerow([job.number, job.status, *settings, *values, job.seconds, job.folder, job.error])
    return text.getvalue()


def _markdown(jobs: Sequence[Job], figures: Sequence[str]) -> str:
    metrics = main_metrics(jobs)
    rows = _turned(_rows(jobs, metrics)) if len(metrics) > _MANY else _rows(jobs, metrics)
    columns = list(rows[0])
    lines = [[cell(row[column]).replace("|", "\\|") for column in columns] for row in rows]
    widths = [max(map(len, entries)) for entries in zip(columns, *lines, strict=True)]
    rule = [f"{'-' * (width - 1)}:" for width in map(max, widths, [3] * len(widths))]
    table = "\n".join(_line(line, widths) for line in (columns, rule, *lines))
    notes = "\n".join(f"- {note}" for note in _notes(jobs))
    everything = (
        f"Every metric is in [sweep.csv](sweep.csv); {sum(job.status == OK for job in jobs)} jobs are done."
    )
    return (
        "\n\n".join(part for part in (f"# {_title(jobs)}", table, notes, everything, *figures) if part) + "\n"
    )


def _line(entries: Sequence[str], widths: Sequence[int]) -> str:
    return f"| {' | '.join(text.rjust(width) for text, width in zip(entries, widths, strict=True))} |"
