"""A sweep, or a comparison of runs, as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from genlab.report.page import embedded, render
from genlab.report.sweep_table import comparable, details, found, labels, shared_notes, table
from genlab.sweep import OK, Job


def sweep_page(
    table_file: Path,
    title: str,
    jobs: Sequence[Job],
    samples: Mapping[str, Path],
    curves: Path | None,
    metrics: Path | None,
) -> str:
    """The page.

    Args:
        table_file: the CSV file of all numbers, beside which the page will lie.
        title: its heading.
        jobs: of the sweep; their folders are relative to that of the page.
        samples: PNG files by what the job is called; a job that has none is shown with its reason.
        curves: a PNG file of the losses.
        metrics: a PNG file of every metric; it is folded where no number was swept, as the table says it all.
    """
    names = labels(jobs)
    links = [_report(table_file.parent, job) for job in jobs]
    return render(
        "sweep.html",
        title=title,
        table_file=table_file.name,
        things="jobs" if table_file.stem == "sweep" else "runs",
        command=next((job.command for job in jobs if job.command), ""),
        done=sum(job.status == OK for job in jobs),
        best=found(jobs),
        comparable=comparable(jobs),
        names=names,
        links=links,
        rows=table(jobs),
        details=details(jobs),
        jobs=[
            {
                "name": name,
                "job": job,
                "link": link,
                "picture": embedded(samples[name]) if name in samples else None,
            }
            for name, job, link in zip(names, jobs, links, strict=True)
        ],
        curves=curves and embedded(curves),
        metrics=metrics and embedded(metrics),
        numbers=any("=" in name for name in names),
        notes=shared_notes(jobs),
    )


def _report(folder: Path, job: Job) -> str:
    """The address of the job's own page from that of the sweep; nothing where it has none."""
    return quote(f"{job.folder}/report.html") if (folder / job.folder / "report.html").is_file() else ""
