"""The folder of one run: what is in it, how it is found again, who may write to it.

::

    config.yaml    the composed configuration       checkpoints/   last.pt, previous.pt, best.pt
    metrics.csv    every logged number              figures/       loss curves, sample grids
    summary.json   the final metrics                tensorboard/   event files
    train.log      what was printed                 evaluation/    JSON of `genlab eval`
    report.html    all of it on one page            commands.txt   what started and continued it
                                                    error.txt      why it broke off, if it did
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import filelock
from omegaconf import OmegaConf

from genlab import own, plain_yaml
from genlab.errors import CheckpointError, ConfigError
from genlab.files import write_atomic

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
_SEAL = "# sha256 of the lines above: "


class RunFolder:
    """Paths inside a run's folder; nothing is created before it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG
        self.metrics = path / "metrics.csv"
        self.summary = path / "summary.json"
        self.report = path / "report.html"
        self.commands = path / "commands.txt"
        self.error = path / "error.txt"
        self.tensorboard = path / "tensorboard"
        self.last = path / "checkpoints" / "last.pt"
        self.previous = path / "checkpoints" / "previous.pt"
        self.best = path / "checkpoints" / "best.pt"

    def folder(self, name: str) -> Path:
        """A subfolder, made if it is not there."""
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def checkpoints(self, weights: str = "last") -> list[Path]:
        """Those that are there, in the order to try them: the newest first, or ``best`` before it.

        Of an epoch by its name (``epoch-12``, of several stages ``prior-epoch-12``) there is one, or none.
        """
        latest = [self.last, self.previous]
        named = {"last": latest, "best": [self.best, *latest]}
        return [path for path in named.get(weights, [self._numbered(weights)]) if path.exists()]

    def of_epoch(self, epoch: int | Literal["*"], stage: str | None) -> Path:
        """Where the weights of an epoch are kept; ``stage`` is named where there are several."""
        return self._numbered("-".join(filter(None, (stage, "epoch", str(epoch)))))

    def up_to_epoch(self, last: int, stage: str | None) -> list[Path]:
        """The kept weights of a stage, in order; later ones are of a continuation that was given up."""
        found = self.last.parent.glob(self.of_epoch("*", stage).name)
        epochs = [int(number) for path in found if (number := path.stem.rpartition("-")[2]).isdigit()]
        return [self.of_epoch(epoch, stage) for epoch in sorted(epochs) if epoch <= last]

    def checkpoint_names(self) -> list[str]:
        """What there is to choose from, the previous one aside."""
        return sorted(path.stem for path in self.last.parent.glob("*.pt") if path != self.previous)

    def _numbered(self, name: str) -> Path:
        return self.path / "checkpoints" / f"{name}.pt"

    def create(self, values: Mapping[str, Any]) -> None:
        """Start the run, whose lock is held: save its configuration.

        Raises:
            ConfigError: another run is there.
        """
        self.folder("checkpoints")
        if self.config.exists():
            raise ConfigError(
                f"{self.path} holds a run already; continue it with resume={self.path} or name another folder"
            )
        self._save_config(values)

    def replace_config(self, values: Mapping[str, Any]) -> None:
        """Save the configuration with which a run goes on."""
        self._save_config({key: value for key, value in values.items() if key != "resume"})

    def _save_config(self, values: Mapping[str, Any]) -> None:
        text = OmegaConf.to_yaml(OmegaConf.create(dict(values)))
        write_atomic(self.config, f"{text}{_SEAL}{_sha256(text)}\n".encode())
        own.remember(self.path, values.get("plugins", ()))

    def load_config(self) -> dict[str, Any]:
        """The saved configuration.

        Raises:
            CheckpointError: it can't be read, was altered, is none, or is more than plain values.
        """
        try:
            text, seal, digest = plain_yaml.text_of(self.config).partition(_SEAL)
            saved = plain_yaml.parse_saved(text, self.config)
        except ConfigError as error:
            raise CheckpointError(str(error)) from None
        if seal and digest.strip() != _sha256(text):
            raise CheckpointError(
                f"{self.config} has been altered: its checksum doesn't match; if that was you, delete its "
                "last line"
            )
        if not isinstance(saved, dict) or not {"model", "dataset"} <= saved.keys():
            raise CheckpointError(f"{self.config} is no configuration of a run")
        return {str(key): value for key, value in saved.items()}

    def logged(self) -> list[list[str]]:
        """The rows ``[step, epoch, name, value]`` of ``metrics.csv`` but for those that are torn or broken."""
        rows = []
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").split("\n")[1:]:
            with contextlib.suppress(ValueError, csv.Error):  # each by itself: a stray quote ends with its line
                ((step, epoch, name, value),) = csv.reader([line])
                int(step), int(epoch), float(value)
                rows.append([step, epoch, name, value])
        return rows

    def logged_so_far(self, size: int | None = None) -> tuple[int, str] | None:
        """How many bytes ``metrics.csv`` has, ``size`` at most, and their SHA-256; ``None`` without a file."""
        try:
            data = self.metrics.read_bytes()[:size]
        except OSError:
            return None
        return len(data), hashlib.sha256(data).hexdigest()

    def lock(self) -> filelock.BaseFileLock:
        """Hold the folder against a second process that would train in it.

        Raises:
            CheckpointError: another process holds it.
        """
        lock = filelock.FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise CheckpointError(f"{self.path} is being trained by another process") from None
        return lock

    def load_summary(self) -> dict[str, Any]:
        """What ``summary.json`` says; nothing where there is none, or where it is broken, with a warning."""
        try:
            summary = dict(json.loads(self.summary.read_text(encoding="utf-8")))
            if summary.pop("sha256", None) in (None, _sha256(json.dumps(summary))):
                return summary
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError):
            pass
        log.warning("%s is broken or has been altered, and is left aside", self.summary)
        return {}

    def update_summary(self, values: Mapping[str, Any]) -> None:
        """Merge ``values`` into ``summary.json``."""
        summary = self.load_summary() | dict(values)
        sealed = summary | {"sha256": _sha256(json.dumps(summary))}
        write_atomic(self.summary, (json.dumps(sealed, indent=2) + "\n").encode())


def _written(path: Path) -> float:
    """When ``path`` was written, in seconds; 0 where that lies ahead: the clock has been put right since."""
    seconds = path.stat().st_mtime
    return seconds if seconds < time.time() + 3600 else 0.0  # those of two machines differ by less


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_ways_out(folder: Path) -> None:
    """What is written into a run's folder must not end up elsewhere: whoever sends one may put links into it.

    Raises:
        CheckpointError: a link there leads out of the folder.
    """
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(folder):
            raise CheckpointError(
                f"{path} is a link that leads out of the run's folder; put a copy there instead"
            )


def find(name: str, outputs: Path, key: str = "run") -> RunFolder:
    """The run folder of that name: a path, or ``latest`` for the newest one under ``outputs``.

    ``key`` is the setting that named it, for the message.

    Raises:
        CheckpointError: there is none, or it is no run's.
    """
    if name != "latest":
        folder = RunFolder(Path(name).expanduser().resolve())
        if not folder.config.is_file():
            raise CheckpointError(f"{key}={name} is no run: there is no {folder.config}")
        _refuse_ways_out(folder.path)
        return folder
    configs = sorted(outputs.glob(f"**/{CONFIG}"), key=_written)
    if not configs:
        raise CheckpointError(
            f"{key}=latest: there is no run under {outputs.resolve()}; train one, or name its folder"
        )
    newest = configs[-1].parent.resolve()
    _refuse_ways_out(newest)
    return RunFolder(newest)
