"""Several runs side by side, ``genlab eval run=[a,b,c]``: each is measured, one page and one table have all.

::

    outputs/comparisons/<time>/
      comparison.csv comparison.md comparison.html
      comparison.png comparison.svg comparison_curves.png comparison_curves.svg comparison_samples.png
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import rich
from rich.markup import escape

from genlab.errors import ConfigError, GenlabError, TrainingError
from genlab.report.run import Run
from genlab.run_folder import RunFolder
from genlab.sweep import FAILED, OK, UNFINISHED, Job

NAME = "comparison"
"""Of the files."""
_MOST = 4
"""Settings that a run is told from others by."""


def compare(
    runs: Sequence[RunFolder],
    outputs: Path,
    command: str,
    measure: Callable[[RunFolder], None] | None,
    explain: Callable[[Exception], GenlabError],
) -> None:
    """Measure each of ``runs``, and write what they reached into a new folder under ``outputs/comparisons``.

    Args:
        runs: the runs, of any models and datasets.
        outputs: the folder of all outputs.
        command: what the user said.
        measure: measures one; ``None`` takes the evaluations that are there.
        explain: an error as one line.

    Raises:
        ConfigError: a run is named twice.
        GenlabError: none could be measured: why the first could not.
        TrainingError: some could not be measured; the others are on the page.
    """
    twice = [run.path for i, run in enumerate(runs) if run.path in {other.path for other in runs[:i]}]
    if twice:
        raise ConfigError(f"run=[...] names {twice[0]} twice")
    errors: dict[Path, GenlabError] = {}
    measured: dict[Path, set[str]] = {}
    for number, run in enumerate(runs):
        before = _evaluations(run)
        try:
            if measure is not None:
                rich.print(f"{number + 1} of {len(runs)}: {escape(str(run.path))}")
                measure(run)
        except Exception as error:
            errors[run.path] = explain(error)
        after = _evaluations(run)
        measured[run.path] = {name for name in after if measure is None or after[name] != before.get(name)}
    if len(errors) == len(runs):
        raise errors[runs[0].path]
    folder = outputs.absolute() / "comparisons" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    _write(folder, runs, measured, errors, command)
    failed = [str(number) for number, run in enumerate(runs) if run.path in errors]
    if failed:
        raise TrainingError(f"{len(failed)} of {len(runs)} runs could not be measured: {', '.join(failed)}")


def _evaluations(run: RunFolder) -> dict[str, tuple[int, int]]:
    """The evaluations of a run by name; their files are new ones whenever they are written."""
    files = {path.stem: path.stat() for path in run.path.glob("evaluation/*.json")}
    return {name: (about.st_ino, about.st_mtime_ns) for name, about in files.items()}


def _write(
    folder: Path,
    runs: Sequence[RunFolder],
    measured: Mapping[Path, set[str]],
    errors: Mapping[Path, GenlabError],
    command: str,
) -> None:
    from genlab.report.sweep import print_report, write_report  # matplotlib takes its time

    folder.mkdir(parents=True)
    known = [Run.read(run) for run in runs]
    settings = told_apart(known)
    jobs = [
        _job(
            number,
            run,
            settings[number],
            measured[run.folder.path],
            errors.get(run.folder.path),
            folder,
            command,
        )
        for number, run in enumerate(known)
    ]
    write_report(folder, jobs, NAME)
    print_report(folder, jobs, NAME)


def _job(
    number: int,
    run: Run,
    settings: Mapping[str, str],
    measured: Iterable[str],
    error: GenlabError | None,
    folder: Path,
    command: str,
) -> Job:
    """A run as a job of a sweep, with what it reached in training and what was measured now."""
    reports = [] if error else [run.evaluations[name] for name in sorted(measured)]
    metrics = {name: value for report in reports for name, value in report.get("metrics", {}).items()}
    status = FAILED if error else OK if run.ended or reports else UNFINISHED
    return Job(
        number=number,
        status=status,
        settings=settings,
        metrics={} if error else metrics | dict(run.trained_metrics()),
        seconds=run.summary.get("train_seconds"),
        folder=Path(os.path.relpath(run.folder.path, folder)).as_posix(),
        error=str(error or ""),
        parameters=run.summary.get("parameters"),
        steps=run.summary.get("steps"),
        hardware=run.summary.get("hardware", ""),
        notes=tuple(note for report in reports for note in report.get("notes", [])),
        remarks={name: words for report in reports for name, words in report.get("remarks", {}).items()},
        command=command,
    )


def told_apart(runs: Sequence[Run]) -> list[dict[str, str]]:
    """What each of ``runs`` is called by: model, dataset and seed; of one model, settings that differ, too."""
    names = {"model": ("model", "name"), "dataset": ("dataset", "name"), "seed": ("seed",)}
    settings = [{key: str(run.setting(*path) or 0) for key, path in names.items()} for run in runs]
    if len({each["model"] for each in settings}) > 1:
        return settings
    flat = [_flat({group: run.config.get(group) for group in ("model", "dataset", "trainer")}) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    differing = [key for key in keys if len({values.get(key) for values in flat}) > 1 and key != "dataset.name"]
    for each, values in zip(settings, flat, strict=True):
        each.update({key: values.get(key, "") for key in differing[:_MOST]})
    return settings


def _flat(values: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings by their whole names; where images come from is no difference."""
    if not isinstance(values, Mapping):
        return {prefix: "null" if values is None else str(values)}
    named = {f"{prefix}.{key}" if prefix else str(key): value for key, value in values.items()}
    named = {key: value for key, value in named.items() if key not in ("dataset.sources", "dataset.root")}
    return {name: text for key, value in named.items() for name, text in _flat(value, key).items()}
