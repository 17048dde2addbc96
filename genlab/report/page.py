"""A sweep as one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

import genlab
from genlab.report.sweep_table import details, found, labels, shared_notes, table
from genlab.sweep import OK, Job


def render(
    title: str, jobs: Sequence[Job], samples: Mapping[str, Path], curves: Path | None, metrics: Path | None
) -> str:
    """The page.

    Args:
        title: its heading.
        jobs: of the sweep.
        samples: PNG files by what the job is called; a job that has none is shown with its reason.
        curves: a PNG file of the losses.
        metrics: a PNG file of every metric; it is folded where no number was swept, as the table says it all.
    """
    names = labels(jobs)
    return _template().render(
        title=title,
        command=next((job.command for job in jobs if job.command), ""),
        done=sum(job.status == OK for job in jobs),
        best=found(jobs),
        names=names,
        rows=table(jobs),
        details=details(jobs),
        jobs=[
            {"name": name, "job": job, "picture": _embedded(samples[name]) if name in samples else None}
            for name, job in zip(names, jobs, strict=True)
        ],
        curves=curves and _embedded(curves),
        metrics=metrics and _embedded(metrics),
        numbers=any("=" in name for name in names),
        notes=shared_notes(jobs),
        version=genlab.__version__,
    )


def _template() -> jinja2.Template:
    """``page.html``, into which all text goes escaped."""
    settings: Any = {"trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, **settings)
    return environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))


def _embedded(path: Path) -> str:
    """The PNG file as the address of an image."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
