"""What the folder of a run says of it, as far as it can be read."""

from __future__ import annotations

import contextlib
import csv
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from genlab.errors import CheckpointError
from genlab.run_folder import RunFolder


class Point(NamedTuple):
    """A logged number."""

    step: int
    epoch: int
    value: float


@dataclass(frozen=True)
class Run:
    """A run that ended, broke off or still goes on: whatever is missing or broken is empty here.

    ``summary``, ``config`` and ``evaluations`` (by name) are plain values; ``curves`` are the numbers of
    ``metrics.csv`` by name, ``error`` is what a command in the folder last broke off by.
    """

    folder: RunFolder
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    curves: Mapping[str, Sequence[Point]]
    evaluations: Mapping[str, Mapping[str, Any]]
    error: str = ""

    @classmethod
    def read(cls, folder: RunFolder) -> Run:
        """The run in ``folder``."""
        config: Mapping[str, Any] = {}
        with contextlib.suppress(CheckpointError):
            config = folder.load_config()
        reports = {path.stem: read_json(path) for path in sorted(folder.path.glob("evaluation/*.json"))}
        first = (config.get("evaluation") or {}).get("name")
        return cls(
            folder,
            _summary(folder),
            config,
            read_metrics(folder.metrics),
            dict(sorted(reports.items(), key=lambda item: item[0] != first)),
            _last_line(folder.error),
        )

    @property
    def name(self) -> str:
        """What it is called: ``vae-mnist``."""
        return str(self.summary.get("run_name") or self.config.get("run_name") or self.folder.path.name)

    def setting(self, *keys: str) -> Any:
        """The setting ``model.loss.name`` for ``("model", "loss", "name")``; ``None`` where there is none."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    @cached_property
    def last_step(self) -> int:
        """The last step of training that was logged."""
        steps = (points[-1].step for name, points in self.curves.items() if name.startswith(("train/", "val/")))
        return max(steps, default=0)

    @property
    def ended(self) -> bool:
        """Whether training came to its end, and what was measured then is of its last step."""
        steps = self.summary.get("steps")
        return isinstance(steps, int) and steps >= self.last_step

    def last(self, name: str) -> float | None:
        """The newest value of a metric: the final one, or the last that was logged."""
        if isinstance(value := self.summary.get("metrics", {}).get(name), int | float) and self.ended:
            return float(value)
        points = self.curves.get(name)
        return points[-1].value if points else None

    def trained_metrics(self) -> Iterator[tuple[str, float]]:
        """The final metrics that no evaluation has: of validation, of callbacks."""
        evaluated = {name for report in self.evaluations.values() for name in report.get("metrics", {})}
        final = self.summary.get("metrics", {})
        return ((name, value) for name, value in final.items() if name not in evaluated)

    def commands(self) -> list[str]:
        """What it was started by, and then what it was continued by; of a job of a sweep, the job alone."""
        job = read_json(self.folder.path / "job.json").get("overrides")
        if isinstance(job, list):
            return [shlex.join(["genlab", "train", *map(str, job)])]
        with contextlib.suppress(OSError):
            return self.folder.commands.read_text(encoding="utf-8", errors="replace").splitlines()
        summary = self.summary.get("command")
        return [summary] if isinstance(summary, str) else []

    def tables(self) -> Iterator[Mapping[str, Any]]:
        """Every row of every table of the evaluations."""
        for report in self.evaluations.values():
            for table in (report, *report.get("further", ())):
                yield from table.get("rows", ())


def _summary(folder: RunFolder) -> dict[str, Any]:
    with contextlib.suppress(OSError):
        return folder.load_summary()
    return {}


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file ``path``; nothing where there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def read_metrics(path: Path) -> dict[str, list[Point]]:
    """The numbers of ``metrics.csv`` by name; rows that a killed run left half written are passed over."""
    curves: dict[str, list[Point]] = {}
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(file):
                with contextlib.suppress(KeyError, TypeError, ValueError):
                    point = Point(int(row["step"]), int(row["epoch"]), float(row["value"]))
                    curves.setdefault(row["name"], []).append(point)
    except (OSError, csv.Error):
        return curves
    return curves


def _last_line(path: Path) -> str:
    with contextlib.suppress(OSError):
        return (path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
    return ""
