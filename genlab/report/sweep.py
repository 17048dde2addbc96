"""The report of a sweep: CSV for machines, a page and Markdown for people, a table on the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genlab.files import write_atomic
from genlab.report.sweep_curves import draw_curves
from genlab.report.sweep_figure import draw_sweep
from genlab.report.sweep_page import sweep_page
from genlab.report.sweep_samples import draw_samples, find_samples
from genlab.report.sweep_table import Cell, Row, found, labels, main_metrics, table
from genlab.report.table import fits, print_rows
from genlab.sweep import FAILED, OK, UNFINISHED, Job, metric_names, swept_keys

_CAPTIONS = {
    "_samples": "Samples",
    "_curves": "Loss curves",
    "": "Every metric against the swept values",
}
"""By what the name of a figure's file ends in."""
_MANY = 12
"""Metrics: of more, each has a row of its own."""


def write_report(folder: Path, jobs: Sequence[Job], name: str = "sweep") -> None:
    """Write ``sweep.csv``, ``sweep.md``, ``sweep.html`` and, if there is something to draw, the figures.

    ``name`` is that of the files, and what the jobs are: a sweep, or a comparison.
    """
    write_atomic(folder / f"{name}.csv", _csv(jobs).encode())
    samples = find_samples(folder, dict(zip(labels(jobs), jobs, strict=True)))
    drawn = {
        "_samples": draw_samples(samples, folder / f"{name}_samples.png"),
        "_curves": draw_curves(folder, jobs, folder / f"{name}_curves"),
        "": draw_sweep(jobs, folder / name),
    }
    figures = {kind: folder / f"{name}{kind}.png" for kind, there in drawn.items() if there}
    write_atomic(folder / f"{name}.md", _markdown(jobs, name, list(figures)).encode())
    page = sweep_page(
        folder / f"{name}.csv", _title(jobs, name), jobs, samples, figures.get("_curves"), figures.get("")
    )
    write_atomic(folder / f"{name}.html", page.encode())


def print_report(folder: Path, jobs: Sequence[Job], name: str = "sweep") -> None:
    """Print as many of the main metrics as fit, why jobs failed, and where the rest and the page are."""
    shown = main_metrics(jobs)
    if len(shown) > _MANY:
        rows = _turned(_rows(jobs, shown), labels(jobs))
    else:
        while not fits(rows := _broken(_rows(jobs, shown))) and len(shown) > 1:
            shown = shown[:-1]
    hidden = len(metric_names(jobs)) - len(shown)
    more = f" (with {hidden} more metrics)" if hidden else ""
    files = [f"{folder / f'{name}.csv'}{more}", f"{folder / f'{name}.html'}"]
    print_rows(_title(jobs, name), rows, [*_notes(jobs), *files])


def _title(jobs: Sequence[Job], name: str) -> str:
    if name != "sweep":
        return f"{name.capitalize()} of {len(jobs)} runs"
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


def _turned(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """A column for each job, under its name, and a row for each key."""
    return [{"": key, **{name: row[key] for name, row in zip(names, rows, strict=True)}} for key in rows[0]]


def _broken(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` under names that are broken into lines at their slashes and dots, to be narrow."""
    return [
        {name.replace("/", "/\n").replace(".", ".\n"): value for name, value in row.items()} for row in rows
    ]


def _notes(jobs: Sequence[Job]) -> list[str]:
    """What a search has found, why jobs failed, and which can be continued."""
    by_reason: dict[str, list[str]] = {}
    for job in jobs:
        if job.status == FAILED:
            by_reason.setdefault(job.error, []).append(str(job.number))
    failed = [f"failed: {', '.join(numbers)}: {error}" for error, numbers in by_reason.items()]
    unfinished = [f"unfinished: {job.number}: {job.folder}" for job in jobs if job.status == UNFINISHED]
    return [*filter(None, [found(jobs)]), *failed, *unfinished]


def _csv(jobs: Sequence[Job]) -> str:
    keys, metrics = swept_keys(jobs), metric_names(jobs)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    about = ["seconds", "parameters", "steps", "hardware", "folder", "error"]
    writer.writerow(["job", "status", *keys, *metrics, *about])
    for job in jobs:
        settings, values = map(job.settings.get, keys), map(job.metrics.get, metrics)
        said = [getattr(job, name) for name in about]
        writer.writerow([job.number, job.status, *settings, *values, *said])
    return text.getvalue()


def _markdown(jobs: Sequence[Job], name: str, figures: Sequence[str]) -> str:
    done = (
        f"Every metric is in [{name}.csv]({name}.csv); {sum(job.status == OK for job in jobs)} jobs are done."
    )
    parts = [
        f"# {_title(jobs, name)}",
        _markdown_table(jobs),
        "↓ lower is better, ↑ higher is better; bold: the best.",
        "\n".join(f"- {_escaped(note)}" for note in _notes(jobs)),
        done + f" The same on one page, with the protocol: [{name}.html]({name}.html).",
        *(f"![{_CAPTIONS[kind]}]({name}{kind}.png)" for kind in figures),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(jobs: Sequence[Job]) -> str:
    """A row for each measure, or for each job where there are fewer measures."""
    rows = table(jobs)
    lines = [["", *labels(jobs)], *([_measure(row), *map(_markdown_cell, row.cells)] for row in rows)]
    if len(rows) < len(jobs):
        lines = [list(column) for column in zip(*lines, strict=True)]
    lines = [[_escaped(text) for text in line] for line in lines]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join(_line(line, widths) for line in (lines[0], rule, *lines[1:]))


def _measure(row: Row) -> str:
    return row.label + {"lower": " ↓", "higher": " ↑", None: ""}[row.better]


def _markdown_cell(entry: Cell) -> str:
    text = f"{entry.text} {entry.remark}".strip()
    return f"**{text}**" if entry.best else text


def _escaped(text: str) -> str:
    """``text`` as Markdown shows it: no column ends in it, and no HTML begins."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _line(entries: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(entries, widths, strict=True)
    return " | ".join([f"| {first[0].ljust(first[1])}", *(text.rjust(width) for text, width in others)]) + " |"
