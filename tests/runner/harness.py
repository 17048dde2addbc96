"""Runs genlab, inside this process or as another one, and compares what runs left behind."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from genlab import checkpoint
from genlab.cli import main

CHECKOUT = Path(__file__).parents[2]

IMAGES = [
    "dataset=noise",
    "dataset.format.height=8",
    "dataset.format.width=8",
    "dataset.format.num_images=96",
    "dataset.num_val=32",
]
MODEL = ["model.net.hidden_dim=8", "model.num_flows=4"]
TRAINING = [
    "trainer.epochs=2",
    "trainer.batch_size=16",
    "trainer.log_every=1",
    "hardware=cpu",
    "hardware.threads=1",
]
TINY = [*IMAGES, *MODEL, *TRAINING]
"""Two epochs of four steps each, on 64 images of 8x8 pixels."""
WATCHING = [
    "sample_grid",
    "log_prob_histogram",
    "reconstructions",
    "interpolation",
    "traversals",
    "latent_map",
    "posterior",
    "sampling_steps",
    "denoising",
]
UNWATCHED = [f"callbacks.{name}=null" for name in WATCHING]
UNMEASURED = ["evaluation.splits=[test]", "evaluation.max_images=2"]
"""As little evaluation as there is."""
OOD = [
    "evaluation=ood",
    "evaluation.datasets=[constant]",
    "evaluation.resamples=10",
    "evaluation.scores=[log_likelihood]",
    "evaluation.max_images=50",
]
"""One OOD score against one set, of few images."""
QUIET = [*TINY, *UNWATCHED, *UNMEASURED]


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    def complaint(self) -> str:
        """The one line on stderr; fails where there is more or less."""
        lines = self.err.splitlines()
        assert len(lines) == 1, f"exit code {self.code}, stderr:\n{self.err}\nstdout:\n{self.out}"
        assert lines[0].startswith("genlab: error: ")
        assert "Traceback" not in self.out
        return lines[0].removeprefix("genlab: error: ")


def genlab(*arguments: object) -> Outcome:
    """``genlab`` with ``arguments`` in this process, whose global state is put back."""
    out, err = io.StringIO(), io.StringIO()
    GlobalHydra.instance().clear()
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    code: Any = 0
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(sys, "argv", ["genlab", *map(str, arguments)])
        patch.setattr(sys, "path", sys.path[:])
        patch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
        patch.setattr(threading, "excepthook", threading.excepthook)
        patch.setenv("HYDRA_FULL_ERROR", "1")
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main()
        except SystemExit as end:
            code = end.code
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
    return Outcome(code or 0, out.getvalue(), err.getvalue())


def python(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A Python process in the current folder that finds genlab and these tests' modules, but no network."""
    path = os.pathsep.join([str(CHECKOUT), str(Path(__file__).parent)])
    variables = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "https_proxy": "http://127.0.0.1:9"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | variables | options.pop("env", {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen[str]) -> Outcome:
    """Wait for ``process``."""
    out, err = process.communicate(timeout=120)
    return Outcome(process.returncode, out, err)


def spawn(*arguments: object, **options: Any) -> Outcome:
    """``genlab`` as a process of its own; ``-P`` as a console script has it: without the current folder."""
    return finish(python("-P", "-m", "genlab", *arguments, **options))


def only_run(outputs: Path) -> Path:
    """The one run folder under ``outputs``."""
    (config,) = outputs.glob("**/config.yaml")
    return config.parent


def train(outputs: Path, *overrides: object) -> Path:
    """A run in this process that must succeed; its folder."""
    outcome = genlab("train", *overrides, f"output_dir={outputs}")
    assert outcome.code == 0, outcome.err
    return only_run(outputs)


def rows(run: Path) -> list[tuple[str, ...]]:
    """``metrics.csv`` but for the timing."""
    with (run / "metrics.csv").open(newline="") as file:
        return [tuple(row.values()) for row in csv.DictReader(file) if row["name"] != "images_per_second"]


def state(run: Path) -> dict[str, Any]:
    """The last checkpoint but for the timing, of which the checksum of ``metrics.csv`` knows."""
    saved = checkpoint.load(run / "checkpoints" / "last.pt")
    del saved["elapsed"], saved["logged"], saved["metrics"]["images_per_second"]
    return saved


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """The places where two checkpoints are not equal bit by bit."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in a.keys() | b.keys():
            yield from differences(a.get(key), b.get(key), f"{where}.{key}")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if not torch.equal(a, b):
            yield where
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{where}[{i}]")
    elif type(a) is not type(b) or a != b:
        yield where


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, averages, optimizers, random state and every logged number are equal bit by bit."""
    different = list(differences(state(a), state(b)))
    assert different == []
    assert rows(a) == rows(b)
