"""A sweep: what each of its jobs leaves in its own folder, and the report that is gathered from there.

A job may run in another process or on another machine, so that all the main process counts on is the job's
folder: ``job.json`` there holds its number, its overrides and how it ended, ``summary.json`` its metrics,
``evaluation/*.json`` what is to be said of them.

::

    outputs/sweeps/<time>/
      sweep.csv sweep.md sweep.html
      sweep.png sweep.svg sweep_curves.png sweep_curves.svg sweep_samples.png
      0-realnvp-mnist/    a run, with job.json
      1-realnvp-mnist/
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from genlab.errors import TrainingError
from genlab.files import write_atomic

log = logging.getLogger(__name__)

OK, FAILED, UNFINISHED = "ok", "failed", "unfinished"
_RECORD = "job.json"
_WORD, _VALUES = re.compile(r"[A-Za-z]\w*"), ("true", "false", "null")
_CALLBACK = "sweep"
"""The name of :class:`Watch` among ``hydra.callbacks``."""


class Watch(Callback):
    """Hydra's callback in ``conf/train.yaml``: where the sweep of this process is."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note the folder; only here does Hydra tell it before the first job starts."""
        Watch.folder = Path(config.hydra.sweep.dir).absolute()


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Report the sweep that runs inside the block, if one does, however it ends.

    Raises:
        TrainingError: some of its jobs failed.
    """
    Watch.folder = None
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # lest the report hide what ended the sweep
            _report()
        raise
    jobs = _report()
    failed = [str(job.number) for job in jobs if job.status != OK]
    if failed:
        raise TrainingError(f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}")


def _report() -> Sequence[Job]:
    jobs = collect(Watch.folder) if Watch.folder else []
    if Watch.folder and jobs:
        from genlab.report.sweep import print_report, write_report  # matplotlib takes its time

        write_report(Watch.folder, jobs)
        print_report(Watch.folder, jobs)
    return jobs


# --------------------------------------------------------------------------------------- one job


def recorded(
    hydra: HydraConf, explain: Callable[[Exception], Exception]
) -> contextlib.AbstractContextManager[None]:
    """Leave word in the folder of the job that runs inside the block: that it began, and how it ended.

    A run that is no job leaves nothing; one that is resumed and once was a job of a sweep brings the report of
    that sweep up to date.
    """
    folder = Path(hydra.runtime.output_dir)
    if hydra.mode == RunMode.MULTIRUN and _CALLBACK in hydra.callbacks:
        return _begun(folder, hydra, explain)
    if (folder / _RECORD).is_file():
        return _resumed(folder)
    return contextlib.nullcontext()


@contextlib.contextmanager
def _begun(folder: Path, hydra: HydraConf, explain: Callable[[Exception], Exception]) -> Iterator[None]:
    _update(
        folder,
        {
            "number": hydra.job.num,
            "overrides": list(hydra.overrides.task),
            "command": shlex.join(["genlab", "train", *sys.argv[1:]]),
            "sweep": os.path.relpath(Path(hydra.runtime.cwd, hydra.sweep.dir), folder),
            "status": UNFINISHED,
            "error": "",
        },
    )
    try:
        yield
    except Exception as error:
        with contextlib.suppress(OSError):
            _update(folder, {"status": FAILED, "error": str(explain(error))})
        raise
    _update(folder, {"status": OK})


@contextlib.contextmanager
def _resumed(folder: Path) -> Iterator[None]:
    yield  # what fails here may be no more than the attempt: the job stays what it was
    _update(folder, {"status": OK, "error": ""})
    sweep = Path(os.path.normpath(folder / _read(folder / _RECORD)["sweep"]))
    if any((sweep / name).is_file() for name in ("multirun.yaml", "sweep.csv")):  # else the job was moved
        from genlab.report.sweep import write_report

        write_report(sweep, collect(sweep))
        log.info("brought up to date: %s", sweep / "sweep.md")


def ends_in_report(hydra: HydraConf) -> bool:
    """Whether the report alone has to tell of a failed job.

    It has where the sweeper tries every combination; one that optimises has to see the exception itself.
    """
    return _CALLBACK in hydra.callbacks and hydra.runtime.choices.get("hydra/sweeper") == "basic"


def _update(folder: Path, values: Mapping[str, Any]) -> None:
    record = _read(folder / _RECORD) | dict(values)
    write_atomic(folder / _RECORD, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


# --------------------------------------------------------------------------------------- all jobs


@dataclass(frozen=True)
class Job:
    """A job as its folder has it; ``settings`` are its overrides by key, as text.

    ``notes`` say how it was measured, ``remarks`` what a metric is not to be read without; ``command`` is that
    of the whole sweep.
    """

    number: int
    status: str
    settings: Mapping[str, str]
    metrics: Mapping[str, float]
    seconds: float | None
    folder: str
    error: str
    parameters: int | None = None
    steps: int | None = None
    hardware: str = ""
    notes: tuple[str, ...] = ()
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    command: str = ""


def collect(sweep: Path) -> list[Job]:
    """The jobs that have begun in the folder ``sweep``, in order."""
    return sorted((_job(path.parent, sweep) for path in sweep.rglob(_RECORD)), key=lambda job: job.number)


def _job(folder: Path, sweep: Path) -> Job:
    record = _read(folder / _RECORD)
    done = record["status"] == OK
    summary = _read(folder / "summary.json") if done else {}
    reports = [_read(path) for path in sorted(folder.glob("evaluation/*.json"))] if done else []
    return Job(
        number=record["number"],
        status=record["status"],
        settings=_settings(record["overrides"]),
        metrics=summary.get("metrics", {}),
        seconds=summary.get("train_seconds"),
        folder=folder.relative_to(sweep).as_posix(),
        error=" ".join(record["error"].split()),
        parameters=summary.get("parameters"),
        steps=summary.get("steps"),
        hardware=summary.get("hardware", ""),
        notes=tuple(note for report in reports for note in report.get("notes", [])),
        remarks={name: words for report in reports for name, words in report.get("remarks", {}).items()},
        command=record.get("command", ""),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return dict(values)


def _settings(overrides: Sequence[str]) -> dict[str, str]:
    settings = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value = override.value()
        settings[override.key_or_group] = (
            value if isinstance(value, str) else override.get_value_element_as_str()
        )
    return settings


def swept_keys(jobs: Sequence[Job]) -> list[str]:
    """Keys whose value is not the same in all ``jobs``: whatever the sweeper, that is what it sweeps."""
    keys = dict.fromkeys(key for job in jobs for key in job.settings)
    return [key for key in keys if len({job.settings.get(key) for job in jobs}) > 1]


def label(job: Job, keys: Sequence[str]) -> str:
    """What ``job`` is called where ``keys`` are swept: ``vae``, ``num_flows=8``, ``vae, seed=1``.

    A word stands for itself; a number has its key.
    """
    named = [_named(key.rpartition(".")[2], job.settings.get(key, "")) for key in keys]
    return ", ".join(named) or f"job {job.number}"


def _named(key: str, value: str) -> str:
    return value if _WORD.fullmatch(value) and value not in _VALUES else f"{key}={value}"


def metric_names(jobs: Sequence[Job]) -> list[str]:
    """Every metric that any of ``jobs`` has, in the order of their first appearance."""
    return list(dict.fromkeys(name for job in jobs for name in job.metrics))


def whole_metrics(jobs: Sequence[Job]) -> list[str]:
    """Those that stand for themselves: no standard errors, no parts (``mig/shape`` beside ``mig``)."""
    names = metric_names(jobs)
    return [name for name in names if name.rpartition("/")[0] not in names and not name.endswith("_se")]
