"""The folder of one run: what is in it, how it is found again, who may write to it.

::

    config.yaml    the composed configuration       checkpoints/   last.pt, previous.pt, best.pt
    metrics.csv    every logged number              figures/       loss curves, sample grids
    summary.json   the final metrics                tensorboard/   event files
    train.log      what was printed                 evaluation/    JSON of `genlab eval`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from genlab.errors import CheckpointError, ConfigError
from genlab.files import write_atomic

CONFIG = "config.yaml"


class RunFolder:
    """Paths inside a run's folder; nothing is created before it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG
        self.metrics = path / "metrics.csv"
        self.summary = path / "summary.json"
        self.tensorboard = path / "tensorboard"
        self.last = path / "checkpoints" / "last.pt"
        self.previous = path / "checkpoints" / "previous.pt"
        self.best = path / "checkpoints" / "best.pt"

    def folder(self, name: str) -> Path:
        """A subfolder, made if it is not there."""
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def checkpoints(self, best: bool = False) -> list[Path]:
        """Those that are there, in the order to try them: the newest first, or ``best`` before it."""
        paths = [self.best, self.last, self.previous] if best else [self.last, self.previous]
        return [path for path in paths if path.exists()]

    def create(self, values: Mapping[str, Any]) -> None:
        """Start the run: save its configuration.

        Raises:
            ConfigError: another run is there.
        """
        self.folder("checkpoints")
        try:
            with self.config.open("x") as file:
                file.write(OmegaConf.to_yaml(OmegaConf.create(dict(values))))
        except FileExistsError:
            raise ConfigError(
                f"{self.path} holds a run already; continue it with resume={self.path} or name another folder"
            ) from None

    def replace_config(self, values: Mapping[str, Any]) -> None:
        """Save the configuration with which a run goes on."""
        saved = OmegaConf.create({key: value for key, value in values.items() if key != "resume"})
        write_atomic(self.config, OmegaConf.to_yaml(saved).encode())

    def load_config(self) -> dict[str, Any]:
        """The saved configuration.

        Raises:
            CheckpointError: it can't be read, or is none.
        """
        try:
            saved = OmegaConf.to_container(OmegaConf.load(self.config))
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
            raise CheckpointError(f"{self.config} can't be read: {' '.join(str(error).split())}") from None
        if not isinstance(saved, dict) or not {"model", "dataset"} <= saved.keys():
            raise CheckpointError(f"{self.config} is no configuration of a run")
        return {str(key): value for key, value in saved.items()}

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

    def update_summary(self, values: Mapping[str, Any]) -> None:
        """Merge ``values`` into ``summary.json``."""
        try:
            summary = json.loads(self.summary.read_text())
        except (FileNotFoundError, ValueError):
            summary = {}
        write_atomic(self.summary, (json.dumps(summary | dict(values), indent=2) + "\n").encode())


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
        return folder
    configs = sorted(outputs.glob(f"**/{CONFIG}"), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise CheckpointError(
            f"{key}=latest: there is no run under {outputs.resolve()}; train one, or name its folder"
        )
    return RunFolder(configs[-1].parent.resolve())
