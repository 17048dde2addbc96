"""A plugin, a callback that weighs the process: ``plugins=[scales] +callbacks.scales={every: 100}``."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Mapping
from pathlib import Path

from genlab.callbacks.base import Callback, EpochsConfig, Snapshot
from genlab.registry import CALLBACKS


@CALLBACKS.register("scales")
class Scales(Callback):
    """A line of ``scales.jsonl`` in the run's folder: what the process and its files have grown to."""

    Config = EpochsConfig
    config: EpochsConfig

    def on_epoch_end(self, snapshot: Snapshot) -> None:
        if not self.config.due(snapshot.epoch, snapshot.num_epochs):
            return
        gc.collect()
        folder = snapshot.folder.path
        weighed: Mapping[str, int] = {
            "epoch": snapshot.epoch,
            "resident": _resident(),
            "objects": len(gc.get_objects()),
            **{name: _size(folder / name) for name in ("tensorboard", "figures", "metrics.csv", "train.log")},
        }
        with (folder / "scales.jsonl").open("a") as file:
            file.write(json.dumps(weighed) + "\n")


def _resident() -> int:
    """Bytes of memory that the process holds; 0 where the system doesn't say."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except FileNotFoundError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
