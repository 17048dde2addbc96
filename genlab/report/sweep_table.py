"""The table of a sweep for people: what each job is, cost and reached, in words and with the best marked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from genlab.report.measures import Better, describe
from genlab.report.table import cell
from genlab.sweep import OK, Job, best, label, metric_names, swept_keys, whole_metrics


@dataclass(frozen=True)
class Cell:
    """A value of one job; ``remark`` is what tells it from those of other jobs."""

    text: str
    remark: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A measure of all jobs; ``metric`` is its name in ``sweep.csv``."""

    label: str
    cells: Sequence[Cell]
    better: Better | None = None
    metric: str = ""


def labels(jobs: Sequence[Job]) -> list[str]:
    """What each job is called, no two alike."""
    keys = swept_keys(jobs)
    names = [label(job, keys) for job in jobs]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({job.number})" for name, job in zip(names, jobs, strict=True)]


def main_metrics(jobs: Sequence[Job]) -> list[str]:
    """What was measured at the end, the validation loss, and what was sought; all of validation if that is all.

    Standard errors and the parts of a metric (``mig/shape`` beside ``mig``) are left to ``sweep.csv``.
    """
    names = metric_names(jobs)
    measured = _grouped([name for name in whole_metrics(jobs) if not name.startswith("val/")])
    if not measured:
        return names
    wanted = {"val/loss", *(job.goal[1] for job in jobs if job.goal)}
    return [*measured, *(name for name in names if name in wanted and name not in measured)]


def _grouped(names: Sequence[str]) -> list[str]:
    """Those that share their first two parts (``ood/typicality``) together, though not every job has all."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        groups.setdefault(tuple(name.split("/")[:2]), []).append(name)
    return [name for group in groups.values() for name in group]


def table(jobs: Sequence[Job]) -> list[Row]:
    """Cost, main metrics and status of each job; a row that no job has anything for is left out."""
    metrics = [name for name in main_metrics(jobs) if not describe(name).detail]
    rows = [*_costs(jobs), *(_metric(name, jobs) for name in metrics)]
    if any(job.status != OK for job in jobs):
        rows.append(Row("status", [Cell(job.status) for job in jobs]))
    return [row for row in rows if any(cell.text for cell in row.cells)]


def details(jobs: Sequence[Job]) -> list[Row]:
    """The main metrics that are parts or by-products of those in :func:`table`."""
    return [_metric(name, jobs) for name in main_metrics(jobs) if describe(name).detail]


def _costs(jobs: Sequence[Job]) -> Iterator[Row]:
    yield _row("job", [job.number for job in jobs])
    yield _row("parameters", [job.parameters for job in jobs])
    yield _row("training steps", [job.steps for job in jobs])
    yield _row("training, s", [job.seconds for job in jobs], "lower")


def _metric(name: str, jobs: Sequence[Job]) -> Row:
    """Remarks that all jobs share are in the label."""
    measure = describe(name)
    remarks = [job.remarks.get(name, ()) for job in jobs]
    known = [words for job, words in zip(jobs, remarks, strict=True) if name in job.metrics]
    shared = [word for word in known[0] if all(word in words for words in known)]
    own = [", ".join(word for word in words if word not in shared) for words in remarks]
    values = [job.metrics.get(name) for job in jobs]
    row = _row(measure.label(shared), values, measure.better, own, name)
    return row if comparable(jobs) else replace(row, cells=[replace(cell, best=False) for cell in row.cells])


def comparable(jobs: Sequence[Job]) -> bool:
    """Whether one value can be better than another: not where they are of different images."""
    return "dataset" not in swept_keys(jobs)


def _row(
    label: str,
    values: Sequence[float | None],
    better: Better | None = None,
    remarks: Sequence[str] | None = None,
    metric: str = "",
) -> Row:
    best = _best(values, better)
    cells = [
        Cell(cell(value), remark, best is not None and value == best)
        for value, remark in zip(values, remarks or [""] * len(values), strict=True)
    ]
    return Row(label, cells, better, metric)


def _best(values: Sequence[float | None], better: Better | None) -> float | None:
    """The best of several values; ``None`` where there is none to choose."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if better is None or len(set(finite)) < 2:
        return None
    return min(finite) if better == "lower" else max(finite)


def found(jobs: Sequence[Job]) -> str:
    """The best job of a search in words: ``best: 3: num_flows=8: val/loss 2.710``; else nothing."""
    if (result := best(jobs)) is None:
        return ""
    job, metric = result
    return f"best: {job.number}: {label(job, swept_keys(jobs))}: {metric} {cell(job.metrics[metric])}"


def shared_notes(jobs: Sequence[Job]) -> list[tuple[str, list[str]]]:
    """How the jobs that are done were trained and measured: each note once, with the jobs that it is of.

    None are named where it is of all of them.
    """
    names = dict(zip((job.number for job in jobs), labels(jobs), strict=True))
    done = [job for job in jobs if job.status == OK]
    holders: dict[str, list[str]] = {}
    for job in done:
        trained = [f"trained on {job.hardware}"] if job.hardware else []
        for note in dict.fromkeys([*trained, *job.notes]):
            holders.setdefault(note, []).append(names[job.number])
    return [(note, [] if len(having) == len(done) else having) for note, having in holders.items()]
