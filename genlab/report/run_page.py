"""A run as one page: what it is, what to notice, its numbers and how they were measured, its pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from genlab.files import write_atomic
from genlab.report.captions import SECTIONS, Figure, figures, write_captions
from genlab.report.measures import describe
from genlab.report.notice import notices
from genlab.report.page import embedded, render
from genlab.report.run import Run
from genlab.report.table import cell
from genlab.run_folder import RunFolder

_FRAME = re.compile(r"(?P<stage>.*?)_?epoch_(?P<epoch>\d+)\.png")


def write_report(folder: RunFolder) -> None:
    """Write ``report.html`` of what is in the folder, and ``figures/captions.md``."""
    run = Run.read(folder)
    shown = figures(run)
    write_captions(run, shown)
    noticed, passed = notices(run)
    text = render(
        "run.html",
        title=run.name,
        ended=run.ended,
        facts=list(_facts(run)),
        notices=noticed,
        passed=passed,
        commands=run.commands(),
        config=_read(folder.config),
        metrics=list(_metrics(run)),
        evaluations=[_evaluation(report) for report in run.evaluations.values()],
        frames=list(_frames(run)),
        sections=_sections(shown, folder.path),
        films=[_link(path, folder.path) for path in sorted(folder.path.glob("figures/*.gif"))],
        folder=folder.path,
    )
    write_atomic(folder.report, text.encode(errors="replace"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    summary = run.summary
    yield "model", str(run.setting("model", "name") or "")
    yield "dataset", str(run.setting("dataset", "name") or "")
    if isinstance(parameters := summary.get("parameters"), int):
        yield "parameters", f"{parameters:,}"
    yield "training", f"{summary.get('epochs', '?')} epochs, {run.last_step:,} steps"
    if isinstance(seconds := summary.get("train_seconds"), int | float):
        yield "training took", _duration(seconds)
    yield "hardware", str(summary.get("hardware", ""))
    yield "seed", str(summary.get("seed", run.config.get("seed", "")))
    if run.folder.metrics.is_file():
        end = datetime.fromtimestamp(run.folder.metrics.stat().st_mtime)
        yield "last written", f"{end:%Y-%m-%d %H:%M}"
    versions = summary.get("versions", {})
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())


def _duration(seconds: float) -> str:
    """A time for people.

    >>> _duration(7.25), _duration(3725)
    ('7.2 s', '1 h 2 min')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _metrics(run: Run) -> Iterator[dict[str, Any]]:
    for name, value in run.trained_metrics():
        measure = describe(name)
        yield {"name": name, "label": measure.label(), "value": cell(value), "better": measure.better}


def _evaluation(report: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation as the page takes it."""
    further = [table for table in report.get("further", ()) if table.get("rows")]
    return {
        "title": report.get("title", ""),
        "table": _table(report.get("rows", ())),
        "further": [
            {"title": t["title"], "table": _table(t["rows"]), "folded": not t.get("printed", True)}
            for t in further
        ],
        "notes": report.get("notes", ()),
        "step": report.get("step"),
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The columns of ``rows`` and their cells, as on the terminal."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return {"columns": columns, "rows": [[cell(row.get(column)) for column in columns] for row in rows]}


def _frames(run: Run) -> Iterator[dict[str, str]]:
    """The grids of samples of the first, the middle and the last epoch, of each stage that has any."""
    stages: dict[str, list[tuple[int, Path]]] = {}
    last = run.summary.get("epochs", math.inf) if run.ended else math.inf
    for path in sorted(run.folder.path.glob("figures/samples/*.png")):
        match = _FRAME.fullmatch(path.name)
        if match and (match["stage"] or int(match["epoch"]) <= last):  # else of a continuation given up
            stages.setdefault(match["stage"], []).append((int(match["epoch"]), path))
    for stage, grids in stages.items():
        of = f"{stage}, " if stage else ""
        grids = sorted(grids)
        for i in sorted({0, len(grids) // 2, len(grids) - 1}):
            epoch, path = grids[i]
            yield {"caption": f"{of}epoch {epoch}", "picture": embedded(path)}


def _sections(shown: Sequence[Figure], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The figures by section, numbered; those beside which the page shows the same are left out."""
    sections: dict[str, list[dict[str, Any]]] = {name: [] for name in SECTIONS}
    for number, figure in enumerate((f for f in shown if f.name != "samples_over_epochs"), start=1):
        sections[figure.section].append(
            {
                "number": number,
                "caption": figure.caption,
                "grid": figure.section == "Samples",
                "picture": embedded(figure.path),
                "width": figure.width,
                "files": [_link(path, folder) for path in figure.files],
            }
        )
    return sections


def _link(path: Path, folder: Path) -> tuple[str, str]:
    """What a file is called, and its address from the page."""
    return path.name, quote(path.relative_to(folder).as_posix())
