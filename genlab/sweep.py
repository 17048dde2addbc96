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
import math
import os
import re
import shlex
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import filelock
from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from genlab import own
from genlab.config import quoted
from genlab.errors import ConfigError, GenlabError, TrainingError, did_you_mean
from genlab.files import write_atomic
from genlab.progress import hushed
from genlab.run_folder import CONFIG, RunFolder
from genlab.sweep_watch import Tally, count_jobs, line, main_metric, settings_of_job

log = logging.getLogger(__name__)

OK, FAILED, UNFINISHED = "ok", "failed", "unfinished"
_RECORD = "job.json"
_WORD, _VALUES = re.compile(r"[A-Za-z]\w*"), ("true", "false", "null")
_CALLBACK = "sweep"
"""The name of :class:`Watch` among ``hydra.callbacks``."""
_OWN_ERRORS = (GenlabError, HydraException, OmegaConfBaseException, KeyboardInterrupt, SystemExit)
"""What says itself why a sweep ends; all else comes from a launcher or a sweeper."""


class Watch(Callback):
    """Hydra's callback in ``conf/train.yaml``: where the sweep of this process is."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note the folder, and give every job its absolute path: a worker may stand in a folder of its own.

        Only here does Hydra tell it before the first job starts.
        """
        Watch.folder = Path(config.hydra.sweep.dir).absolute()
        own.remember(Watch.folder, sys.argv[1:])
        with read_write(config):
            config.hydra.sweep.dir = str(Watch.folder)
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(Watch.folder)}")
        total = count_jobs(config.hydra)
        jobs = "a sweep" if total is None else "1 job" if total == 1 else f"{total} jobs"
        log.info("%s in %s; what each one says is in its train.log", jobs, Watch.folder)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Report the sweep that runs inside the block, if one does, however it ends.

    Raises:
        TrainingError: some of its jobs failed, or the launcher or the sweeper did: a worker was lost, say.
    """
    Watch.folder = None
    try:
        yield
    except BaseException as error:
        jobs: Sequence[Job] = []
        with contextlib.suppress(Exception):  # lest the report hide what ended the sweep
            jobs = _report()
        if Watch.folder is None or isinstance(error, _OWN_ERRORS):
            raise
        raise TrainingError(_broken_off(error, jobs)) from error
    jobs = _report()
    failed = [str(job.number) for job in jobs if job.status != OK]
    if failed:
        raise TrainingError(f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}")


def _broken_off(error: BaseException, jobs: Sequence[Job]) -> str:
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")
    way_out = f"; go on with: genlab train resume={Watch.folder}" if jobs else ""
    return f"the sweep broke off ({reason}){way_out}"


def _report() -> Sequence[Job]:
    folder = Watch.folder
    jobs = _write(folder) if folder and folder.is_dir() else []
    if folder and jobs:
        from genlab.report.sweep import print_report

        print_report(folder, jobs)
    return jobs


def _write(sweep: Path) -> list[Job]:
    """Write the report of the jobs that have begun; two processes that come to it take turns."""
    if not any(sweep.rglob(_RECORD)):
        return []
    from genlab.report.sweep import write_report  # matplotlib takes its time

    with filelock.FileLock(sweep / ".lock"):
        jobs = collect(sweep)
        write_report(sweep, jobs)
    return jobs


def arguments(sweep: Path) -> list[str]:
    """What ``genlab train`` was given for the sweep in the folder ``sweep``; nothing where there is none."""
    if any((sweep / name).exists() for name in (CONFIG, _RECORD)):  # a run, maybe one of its jobs
        return []
    commands = [job.command for job in collect(sweep) if job.command]
    return shlex.split(commands[0])[2:] if commands else []


# --------------------------------------------------------------------------------------- one job


@dataclass(frozen=True)
class Earlier:
    """What an attempt at a job finds of those before it: settings to go on with, or the metrics of the job."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] | None = None


def attempt(
    hydra: HydraConf, config: DictConfig, explain: Callable[[Exception], Exception]
) -> contextlib.AbstractContextManager[Earlier]:
    """Leave word in the folder of the job that runs inside the block: that it began, and how it ended.

    A job that comes again to its own folder (its worker was killed, the queue took its place away, the whole
    sweep is started anew there) goes on from its checkpoint, and one that was done is left as it is.

    A run that is no job leaves nothing; one that is resumed and once was a job of a sweep brings the report of
    that sweep up to date.

    Raises:
        ConfigError: another job is in the folder.
    """
    folder = Path(hydra.runtime.output_dir)
    record = _read(folder / _RECORD)
    if hydra.mode != RunMode.MULTIRUN or _CALLBACK not in hydra.callbacks:
        return _resumed(folder, record) if record else contextlib.nullcontext(Earlier())
    if record and record["overrides"] != list(hydra.overrides.task):
        other = " ".join(record["overrides"])
        raise ConfigError(f"{folder} holds another job ({other}); name another folder for this sweep")
    metrics = RunFolder(folder).load_summary().get("metrics") if record.get("status") == OK else None
    if metrics is not None:
        log.info("job %d is done already: %s", hydra.job.num, folder)
        return contextlib.nullcontext(Earlier(metrics=metrics))
    record = record or _first_record(folder, hydra, config)
    tell = partial(_tell, hydra, OmegaConf.select(config, "objective"))
    return _begun(folder, record, tell, explain)


def _first_record(folder: Path, hydra: HydraConf, config: DictConfig) -> dict[str, Any]:
    return {
        "number": hydra.job.num,
        "overrides": list(hydra.overrides.task),
        "command": shlex.join(["genlab", "train", *sys.argv[1:]]),
        "sweep": os.path.relpath(hydra.sweep.dir, folder),
        "goal": _goal(hydra, config),
    }


def _goal(hydra: HydraConf, config: DictConfig) -> list[str] | None:
    """``["minimize", metric]`` or ``["maximize", metric]``; nothing where none is sought, or several."""
    direction = OmegaConf.select(hydra, "sweeper.direction")  # type: ignore[arg-type]
    goal = [getattr(direction, "name", direction), OmegaConf.select(config, "objective")]
    return goal if all(isinstance(part, str) for part in goal) else None


@contextlib.contextmanager
def _begun(
    folder: Path,
    record: dict[str, Any],
    tell: Callable[[Mapping[str, Any]], None],
    explain: Callable[[Exception], Exception],
) -> Iterator[Earlier]:
    start = time.perf_counter()

    def end(status: str, error: str = "") -> None:
        ended = record | {"status": status, "error": error, "wall_seconds": time.perf_counter() - start}
        _save(folder, ended)
        tell(ended)

    _save(folder, record | {"status": UNFINISHED, "error": ""})
    try:
        with hushed(log.name):
            yield Earlier({"resume": str(folder)} if (folder / CONFIG).is_file() else {})
    except Exception as error:
        with contextlib.suppress(OSError):
            end(FAILED, str(explain(error)))
        raise
    end(OK)


def _tell(hydra: HydraConf, objective: Any, record: Mapping[str, Any]) -> None:
    """One line about the job of this process, which has ended as ``record`` says."""
    records = [_read(path) for path in Path(hydra.sweep.dir).rglob(_RECORD)]
    seconds = record["wall_seconds"]
    metrics = RunFolder(Path(hydra.runtime.output_dir)).load_summary().get("metrics", {})
    done = [each.get("wall_seconds", seconds) for each in records if each.get("status") == OK] or [seconds]
    running = sum(each.get("status") == UNFINISHED for each in records)
    tally = Tally(len(records) - running, running, count_jobs(hydra), statistics.mean(done))
    outcome = f"ok{main_metric(metrics, objective)}" if record["status"] == OK else f"failed: {record['error']}"
    words = line(record["number"], settings_of_job(hydra), outcome, seconds, tally, datetime.now())
    log.log(logging.INFO if record["status"] == OK else logging.ERROR, words)


@contextlib.contextmanager
def _resumed(folder: Path, record: dict[str, Any]) -> Iterator[Earlier]:
    yield Earlier()  # what fails here may be no more than the attempt: the job stays what it was
    _save(folder, record | {"status": OK, "error": ""})
    sweep = Path(os.path.normpath(folder / record["sweep"]))
    moved = not any((sweep / name).is_file() for name in ("multirun.yaml", "sweep.csv"))
    if sweep.absolute() in folder.absolute().parents and not moved:
        _write(sweep)
        log.info("brought up to date: %s", sweep / "sweep.md")


def _save(folder: Path, record: Mapping[str, Any]) -> None:
    write_atomic(folder / _RECORD, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def objective(
    hydra: HydraConf, values: Mapping[str, Any], metrics: Mapping[str, float]
) -> float | list[float] | None:
    """What the sweeper of a job gets: one that optimises the metrics that ``objective`` names, others nothing.

    Raises:
        ConfigError: the run has no such metric.
    """
    if hydra.mode != RunMode.MULTIRUN or "objective" not in values or ends_in_report(hydra):
        return None
    wanted = values["objective"]
    names = [wanted] if isinstance(wanted, str) else wanted
    for name in names:
        if name not in metrics:
            raise ConfigError(f"objective={name}: the run has no such metric{did_you_mean(name, metrics)}")
    return metrics[wanted] if isinstance(wanted, str) else [metrics[name] for name in names]


def ends_in_report(hydra: HydraConf) -> bool:
    """Whether the report alone has to tell of a failed job.

    It has where the sweeper tries every combination; one that optimises has to see the exception itself.
    """
    return _CALLBACK in hydra.callbacks and hydra.runtime.choices.get("hydra/sweeper") == "basic"


# --------------------------------------------------------------------------------------- all jobs


@dataclass(frozen=True)
class Job:
    """A job as its folder has it; ``settings`` are its overrides by key, as text.

    ``notes`` say how it was measured, ``remarks`` what a metric is not to be read without; ``command`` is that
    of the whole sweep, ``goal`` what it searches for, if it does: ``("minimize", "val/loss")``.
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
    goal: tuple[str, ...] = ()


def collect(sweep: Path) -> list[Job]:
    """The jobs that have begun in the folder ``sweep``, in order."""
    return sorted((_job(path.parent, sweep) for path in sweep.rglob(_RECORD)), key=lambda job: job.number)


def _job(folder: Path, sweep: Path) -> Job:
    record = _read(folder / _RECORD)
    done = record["status"] == OK
    summary = RunFolder(folder).load_summary() if done else {}
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
        goal=tuple(record.get("goal") or ()),
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


def best(jobs: Sequence[Job]) -> tuple[Job, str] | None:
    """The job that a search has found, and the metric that it is best in; ``None`` where nothing was sought."""
    goals = {job.goal for job in jobs if job.goal}
    if len(goals) != 1:
        return None
    direction, metric = goals.pop()
    reached = [job for job in jobs if math.isfinite(job.metrics.get(metric, math.nan))]
    choose = min if direction == "minimize" else max
    return (choose(reached, key=lambda job: job.metrics[metric]), metric) if reached else None
